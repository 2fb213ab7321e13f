"""The train state as the items of a checkpoint, and back."""

import json
from typing import Any

from ml_collections import ConfigDict

from esr_lefuse_jax.config import changed_on_resume
from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.training import parallel
from esr_lefuse_jax.training.checkpointing import Checkpoints, Flat, Restored, fill, flat_arrays
from esr_lefuse_jax.training.state import TrainState


def resume(
    checkpoints: Checkpoints, fresh: TrainState, config: ConfigDict, fingerprint: str
) -> tuple[TrainState, dict[str, Any]]:
    """The state from which a run goes on, on every process.

    Args:
        checkpoints: of the run; only the first process reads them.
        fresh: a new state on the host, which gives the structure.
        config: of this run.
        fingerprint: of its data.

    Returns:
        The latest intact checkpoint's state and meta data; the fresh state and nothing when none was ever saved.

    Raises:
        ConfigError: the config or the data differ from those of the run.
        TrainingError: there are checkpoints, but none is intact.
        CheckpointError: the checkpoint does not fit the config.
    """
    state, meta = fresh, {}
    restored = checkpoints.restore() if parallel.is_first_process() else None
    if restored is not None:
        meta = restored.meta
        changes = changed_on_resume(config, meta["config"])
        if meta["data"] != fingerprint:
            changes.append("data: the list of files differs")
        if changes and not config.checkpoint.allow_changes:
            raise ConfigError(
                f"{checkpoints.folder}: the run in this folder has another config ({'; '.join(changes)}); use "
                f"another --workdir or accept with --config.checkpoint.allow_changes=True"
            )
        state = from_items(fresh, restored, str(checkpoints.folder))
    meta = json.loads(parallel.text_from_first_process(json.dumps(meta)))
    return (parallel.from_first_process(state) if meta else fresh), meta


def exported_variables(state: TrainState) -> dict[str, dict[str, Any]]:
    """The variables that are evaluated and exported, by network."""
    found: dict[str, dict[str, Any]] = {}
    for name, params in state.eval_params.items():
        found[name] = {"params": params}
        if name in state.batch_stats:
            found[name]["batch_stats"] = state.batch_stats[name]
    return found


def to_items(state: TrainState) -> dict[str, Flat]:
    """The state as checkpoint items: evaluated variables by network, and `train_state` with all the rest."""
    items = {name: flat_arrays(variables) for name, variables in exported_variables(state).items()}
    return items | {"train_state": flat_arrays(_rest(state))}


def _rest(state: TrainState) -> dict[str, Any]:
    rest = {
        "step": state.step,
        "opt_state": state.opt_state,
        "loss_scale": state.loss_scale,
        "rate_scale": state.rate_scale,
        "skipped": state.skipped,
        "skipped_in_row": state.skipped_in_row,
    }
    # With a moving average the items of the networks hold the average, and the trained parameters go here.
    return rest if state.average is None else rest | {"params": state.params}


def from_items(template: TrainState, restored: Restored, where: str) -> TrainState:
    """The saved state; `template` gives the structure.

    Raises:
        CheckpointError: the items do not fit the template.
    """
    where = f"{where}/{restored.step}"
    filled = {
        name: fill(variables, restored.items.get(name, {}), f"{where}/{name}")
        for name, variables in exported_variables(template).items()
    }
    rest = fill(_rest(template), restored.items["train_state"], f"{where}/train_state")
    evaluated = {name: variables["params"] for name, variables in filled.items()}
    stats = {
        name: variables["batch_stats"] for name, variables in filled.items() if "batch_stats" in variables
    }
    return template.replace(
        params=rest.pop("params", evaluated),
        average=None if template.average is None else evaluated,
        batch_stats=stats,
        **rest,
    )
