"""Start of the fusion weights `open`: the network begins as the best pointwise fusion of Y and IR.

Two channels carry Y and IR unchanged through the full-resolution modules to the head, which is fitted to the
targets as a function of these two values alone. A run of some hundred steps then learns what a pointwise
function cannot do, instead of first finding its way through nine residual modules.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

FULL_RESOLUTION = ("blk1", "upblk3", "upblk4_0", "upblk4_1")
RESIDUAL = 0.3  # of the branches' output, as the modules are many
BATCHES, STEPS = 60, 500
# The global path returns its input, which is weighed by sigmoid(0) and added: 1.5 times the input per module.
GAIN = 1.5 ** len(FULL_RESOLUTION)


def pass_through(
    variables: dict[str, Any], batches: Iterator[dict[str, np.ndarray]], seed: int
) -> dict[str, Any]:
    """Untrained variables of `FusionUNet`, changed to start from the pointwise fusion.

    Args:
        variables: from `initial_variables`.
        batches: training batches, from which the head is fitted.
        seed: of the fit.
    """
    variables = jax.tree.map(np.array, variables)
    params = variables["params"]
    _select(params["emb1"]["kernel"], sources=(0, 1))
    _select(params["conv_3_3"]["kernel"], sources=(32, 33))
    for name, module in params.items():
        if "global_path" in module:
            _calm(module, carries=name in FULL_RESOLUTION)

    inner, inner_bias, outer, outer_bias = _fit_head(batches, seed)
    params["dec_0"]["kernel"] *= 0.2
    params["dec_0"]["kernel"][:, :, :2] = 0
    params["dec_0"]["kernel"][1, 1, :2] = inner / GAIN
    params["dec_0"]["bias"][:] = inner_bias
    params["dec_2"]["kernel"] *= 0.1
    params["dec_2"]["kernel"][1, 1] = outer
    params["dec_2"]["bias"][:] = outer_bias
    return variables


def _select(kernel: np.ndarray, sources: tuple[int, int]) -> None:
    """Makes the first two outputs of a 3x3 convolution copies of two inputs."""
    kernel[..., :2] = 0
    for output, source in enumerate(sources):
        kernel[1, 1, source, output] = 1


def _calm(module: dict[str, Any], carries: bool) -> None:
    """Scales the branches of a module down, and to zero where they would change the two carrying channels."""
    attention, feed_forward = module["global_path"]["attn"], module["global_path"]["ffn"]
    local, recalibration = module["local_path"], module["recalibration"]
    scaled = [
        (attention["project_out"]["kernel"], RESIDUAL),
        (feed_forward["project_out"]["kernel"], RESIDUAL),
        (local["dwconv2"]["conv"]["kernel"], RESIDUAL),
        (local["aux_g"]["bn"]["scale"], RESIDUAL),
        (recalibration["se_conv3"]["kernel"], 0.2),
        (recalibration["se_conv4"]["kernel"], 0.2),
    ]
    for leaf, factor in scaled:
        leaf *= factor
        if carries:
            leaf[..., :2] = 0


def _fit_head(batches: Iterator[dict[str, np.ndarray]], seed: int) -> tuple[np.ndarray, ...]:
    """Fits sigmoid(b + B leaky(a + A (y, ir))) with 16 hidden units to the targets, in the L1 sense."""
    sources, wanted = [], []
    for _ in range(BATCHES):
        batch = next(batches)
        planes = [batch["visible"][..., 0], batch["infrared"][..., 0]]
        sources.append(np.stack([plane.ravel()[::7] for plane in planes], axis=-1))
        wanted.append(batch["target"].ravel()[::7])
    x, t = np.concatenate(sources), np.concatenate(wanted)
    rng = np.random.default_rng(seed)
    head = (
        rng.normal(0, 3, (2, 16)).astype(np.float32),
        rng.uniform(-1, 1, 16).astype(np.float32),
        rng.normal(0, 0.4, (16, 1)).astype(np.float32),
        np.zeros(1, np.float32),
    )
    optimizer = optax.adam(0.02)

    def loss(head, x, t):
        hidden = jax.nn.leaky_relu(x @ head[0] + head[1], 0.2)
        return jnp.mean(jnp.abs(jax.nn.sigmoid(hidden @ head[2] + head[3])[:, 0] - t))

    @jax.jit
    def step(head, state, x, t):
        updates, state = optimizer.update(jax.grad(loss)(head, x, t), state)
        return optax.apply_updates(head, updates), state

    state = optimizer.init(head)
    for _ in range(STEPS):
        chosen = rng.integers(0, len(t), 4000)
        head, state = step(head, state, x[chosen], t[chosen])
    return tuple(np.asarray(part) for part in head)
