"""First phase of the fusion weights `open`: training with the branches of all dual-branch modules closed.

A module whose branches give zero is `x + weight * x` with the recalibration's weight. So closed, the network is a
plain U-Net whose channels are weighed by the statistics of the whole picture: enough to learn the tone curve, at
an eighth of the cost of a full step. The second phase opens the branches and trains everything.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from esr_lefuse_jax.losses import fusion_objective, weighted_sum
from esr_lefuse_jax.models import fusion

Tree = dict[str, Any]


class ClosedModule(nn.Module):
    """A dual-branch module whose branches give zero; its parameters are those of the recalibration."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, d) to the same shape."""
        recalibration = fusion.ChannelRecalibration(self.dtype, name="recalibration")
        weight, _ = recalibration(x, jnp.zeros_like(x))
        return x + x * weight


def warm_up(
    variables: Tree,
    batches: Iterator[Mapping[str, np.ndarray]],
    weights: Mapping[str, float],
    steps: int,
    rate: float,
) -> Tree:
    """Trains the closed network and returns the moving average of its parameters, in the full tree.

    Args:
        variables: of `FusionUNet`.
        batches: training batches.
        weights: of the fusion objective; the perceptual term is left out.
        steps: Adam steps, over which the rate falls to a hundredth by a cosine.
        rate: the highest learning rate.
    """
    weights = {**weights, "perceptual": 0.0}
    closed = {
        name: {"recalibration": part["recalibration"]} if "recalibration" in part else part
        for name, part in variables["params"].items()
    }
    schedule = optax.warmup_cosine_decay_schedule(rate / 30, rate, 30, steps, rate / 100)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(params: Tree, batch: Mapping[str, jax.Array]) -> jax.Array:
        y = batch["visible"][..., :1]
        network: Any = fusion.FusionUNet()  # flax types `apply` as a result that may be a pair
        fused = network.apply({"params": params}, y, batch["infrared"])
        return weighted_sum(fusion_objective(fused, {**batch, "luminance": y}, weights), weights).mean()

    @jax.jit
    def step(params, state, average, batch, keep):
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
        params = optax.apply_updates(params, updates)
        return params, state, optax.incremental_update(params, average, 1 - keep)

    params, state, average = closed, optimizer.init(closed), closed
    with mock.patch.object(fusion, "DualBranchModule", ClosedModule):
        for number in range(steps):
            keep = min(0.99, (1 + number) / (10 + number))
            params, state, average = step(params, state, average, next(batches), keep)
    return {**variables, "params": _opened(variables["params"], jax.device_get(average))}


def _opened(params: Tree, closed: Tree) -> Tree:
    """The full tree with the closed network's parameters; the branches' last layers are zero."""
    full = jax.tree.map(np.array, params)
    for name, part in full.items():
        if "recalibration" not in part:
            full[name] = closed[name]
            continue
        part["recalibration"] = closed[name]["recalibration"]
        context, texture = part["global_path"], part["local_path"]
        lasts = (
            context["attn"]["project_out"],
            context["ffn"]["project_out"],
            texture["dwconv2"]["conv"],
            texture["aux_g"]["bn"],
        )
        for leaf in jax.tree.leaves(lasts):
            leaf[...] = 0
    return full
