"""The weights a stage starts from, and those of its frozen networks."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from esr_lefuse_jax import weights, weights_cache
from esr_lefuse_jax.errors import CheckpointError, ConfigError
from esr_lefuse_jax.training.stages import Stage
from esr_lefuse_jax.training.state import bicubic_start, initial_variables

Tree = dict[str, Any]

# Frozen network: its option, and the name under which `esr-lefuse weights import` knows it.
FROZEN = {"vgg16": ("loss.vgg16", "vgg16"), "rrdb": ("loss.teacher", "realesrgan")}


def starting_variables(config: ConfigDict, stage: Stage) -> tuple[dict[str, Tree], str]:
    """Variables of the trained networks: from `init.<network>` where that is set, else untrained.

    Returns:
        The variables by network; the terms that come with them, and so with what is trained from them ("": none).

    Raises:
        CheckpointError: a file cannot be used.
        ConfigError: a super-resolution network of another scale.
    """
    found: dict[str, Tree] = {}
    terms: dict[str, None] = {}
    for name, network in stage.networks.items():
        path = config.init[name]
        if path:
            loaded = weights.load_weights(path, name)
            if name == "sr" and int(loaded.metadata.get("scale", config.model.scale)) != config.model.scale:
                raise ConfigError(
                    f"config.init.sr={path} enlarges {loaded.metadata['scale']} times, config.model.scale is "
                    f"{config.model.scale}"
                )
            found[name] = loaded.variables
            if loaded.terms:
                terms[loaded.terms] = None
            continue
        variables = initial_variables(network, stage.example_inputs()[name], config.seed)
        if name == "sr" and config.init.bicubic_start:
            variables = {"params": bicubic_start(variables["params"])}
        found[name] = variables
    return found, "; ".join(terms)


def frozen_variables(config: ConfigDict, stage: Stage) -> dict[str, Tree]:
    """Variables of the frozen networks of a stage, as float32 NumPy arrays.

    Raises:
        CheckpointError: a file cannot be used.
        ConfigError: weights were neither named nor imported.
    """
    found = {}
    for name in stage.frozen:
        option, cached = FROZEN[name]
        path = config.loss[option.split(".")[1]]
        try:
            loaded = weights.load_weights(path, name) if path else weights_cache.load_cached(cached)
        except CheckpointError as error:
            if path:
                raise
            raise ConfigError(
                f"{name} is needed: run `esr-lefuse weights import {cached}` or set "
                f"--config.{option}=FILE ({error})"
            ) from error
        found[name] = {"params": {k: _as_float32(v) for k, v in loaded.variables["params"].items()}}
    return found


def _as_float32(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _as_float32(value) for name, value in tree.items()}
    return np.asarray(tree, np.float32)
