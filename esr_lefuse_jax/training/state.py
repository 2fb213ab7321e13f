"""The train state: everything a step changes, and nothing else."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from esr_lefuse_jax.models.layers import LEAKY_SLOPE
from esr_lefuse_jax.training.optimizer import LossScale

Tree = dict[str, Any]


class TrainState(struct.PyTreeNode):
    """State of training. `params` and `batch_stats` are keyed by network (`fusion`, `sr`).

    Attributes:
        step: batches consumed, skipped ones included; the position in the data.
        params: trained parameters, float32.
        batch_stats: running statistics of the batch norms (fusion only).
        opt_state: of the optimizer.
        average: moving average of the parameters, or None.
        loss_scale: float16 only, else None.
        rate_scale: factor on the learning rate, lowered on a plateau.
        skipped: steps skipped so far because something was not finite.
        skipped_in_row: of these, those since the last good step.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    average: Tree | None
    loss_scale: LossScale | None
    rate_scale: jax.Array
    skipped: jax.Array
    skipped_in_row: jax.Array

    @property
    def eval_params(self) -> Tree:
        """What is evaluated and exported: the moving average where there is one."""
        return self.params if self.average is None else self.average


def create_state(
    variables: Mapping[str, Mapping[str, Any]],
    optimizer: optax.GradientTransformation,
    *,
    keep_average: bool,
    scale_loss: bool,
) -> TrainState:
    """A state before its first step.

    Args:
        variables: for each network its `params` and, where it has any, `batch_stats`.
        optimizer: the optimizer whose state to set up.
        keep_average: whether a moving average of the parameters is kept.
        scale_loss: whether the loss is scaled (float16).
    """
    params = {name: v["params"] for name, v in variables.items()}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        batch_stats={name: v["batch_stats"] for name, v in variables.items() if v.get("batch_stats")},
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if keep_average else None,
        loss_scale=LossScale.create() if scale_loss else None,
        rate_scale=jnp.ones((), jnp.float32),
        skipped=zero,
        skipped_in_row=zero,
    )


def initial_variables(network: nn.Module, inputs: tuple[jax.Array, ...], seed: int) -> Tree:
    """Untrained variables of one network (NumPy): PyTorch's kernels, zero biases, unit scales and variances.

    Kernels are uniform with variance 1 / (3 fan_in), PyTorch's default, with which the original was trained.
    He's initialisation has six times that variance: through nine residual modules the fusion would start
    saturated.

    Drawn on the host: the same numbers on every platform, and at once, where the compiler would need most of
    a minute for the several hundred small random generators of `network.init`.

    Args:
        network: the module.
        inputs: arrays of the shapes it is called with.
        seed: every seed gives other kernels.
    """

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            rng = np.random.default_rng([seed, zlib.crc32(jax.tree_util.keystr(path).encode())])
            limit = np.sqrt(1 / np.prod(leaf.shape[:-1]))
            return rng.uniform(-limit, limit, leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, name in ("scale", "var", "temperature"), leaf.dtype)

    shapes = jax.eval_shape(lambda *args: network.init(jax.random.key(0), *args), *inputs)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def bicubic_start(params: Tree) -> Tree:
    """Parameters of an ESR-U-Net changed so that it is exactly bicubic enlargement, clipped to [0, 1].

    The learned detail starts at zero, and the refinement, which has only rectified channels to carry colour
    through, starts as the identity: with the rectifier r of slope s, r(x) - r(-x) = (1 + s) x, so six of its
    channels carry +x and -x. The other channels keep their initialisation and join in as training wants.
    """
    params = jax.tree.map(jnp.asarray, params)
    detail = {name: jnp.zeros_like(value) for name, value in params["upsample_2"].items()}
    first, last = dict(params["refine_0"]), dict(params["refine_2"])
    first["bias"], last = jnp.zeros_like(first["bias"]), {k: jnp.zeros_like(v) for k, v in last.items()}
    channels = last["kernel"].shape[-1]
    for c in range(channels):
        for channel, sign in ((2 * c, 1.0), (2 * c + 1, -1.0)):
            into = jnp.zeros_like(first["kernel"][..., channel]).at[1, 1, c].set(sign)
            first["kernel"] = first["kernel"].at[..., channel].set(into)
            last["kernel"] = last["kernel"].at[1, 1, channel, c].set(sign / (1 + LEAKY_SLOPE))
    return {**params, "upsample_2": detail, "refine_0": first, "refine_2": last}
