"""The train state as the items of a checkpoint, and back."""

from typing import Any

from esr_lefuse_jax.training.checkpointing import Flat, Restored, fill, flat_arrays
from esr_lefuse_jax.training.state import TrainState


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
