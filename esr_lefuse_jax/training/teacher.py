"""Pseudo high-resolution references from Real-ESRGAN, made on the fly and held to what the input says."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from esr_lefuse_jax.losses.terms import gaussian_mean
from esr_lefuse_jax.ops.resize import bicubic

TEACHER_SCALE = 4


def box_down(x: jax.Array, scale: int) -> jax.Array:
    """Means of scale x scale cells of (N, H, W, C); H and W are multiples of `scale`."""
    n, h, w, c = x.shape
    return jnp.mean(x.reshape(n, h // scale, scale, w // scale, scale, c), axis=(2, 4))


def keep_low_frequencies(enlarged: jax.Array, lr: jax.Array) -> jax.Array:
    """Adds back the low frequencies in which an enlargement has drifted from its input.

    y + up4(blur(lr - box4(y))): raw, the teacher shifts colours by a few grey levels. The blur (one pixel)
    leaves it free to sharpen and to remove codec blocks.

    Args:
        enlarged: (N, 4H, 4W, C).
        lr: (N, H, W, C).

    Returns:
        (N, 4H, 4W, C) in [0, 1].
    """
    drift = gaussian_mean(lr - box_down(enlarged, TEACHER_SCALE), size=7, sigma=1.0)
    return jnp.clip(enlarged + bicubic(drift, TEACHER_SCALE), 0, 1)


def teach(network: Callable[[jax.Array], jax.Array], lr: jax.Array) -> jax.Array:
    """The teacher's enlargement of `lr` (N, H, W, 3), (N, 4H, 4W, 3) in [0, 1]; carries no gradient."""
    lr = jax.lax.stop_gradient(lr)
    return jax.lax.stop_gradient(keep_low_frequencies(network(lr), lr))
