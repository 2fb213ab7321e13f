"""Conversion between RGB and the luminance / chrominance space in which the fusion network works.

Images are floats in [0, 1], channels last, any leading dimensions. The coefficients are the full-range BT.601 ones
of the original model, with a rounding of their own: the two directions are inverse to about 1e-3, not to rounding.
"""

import jax
import jax.numpy as jnp


def rgb_to_ycrcb(rgb: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits RGB (..., 3) into luminance Y and chrominance Cr and Cb, each (..., 1), clipped to [0, 1]."""
    red, green, blue = rgb[..., 0:1], rgb[..., 1:2], rgb[..., 2:3]
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    cr = (red - y) * 0.713 + 0.5
    cb = (blue - y) * 0.564 + 0.5
    return jnp.clip(y, 0, 1), jnp.clip(cr, 0, 1), jnp.clip(cb, 0, 1)


def ycrcb_to_rgb(y: jax.Array, cr: jax.Array, cb: jax.Array) -> jax.Array:
    """Joins Y, Cr and Cb, each (..., 1), to RGB (..., 3), clipped to [0, 1]."""
    cr, cb = cr - 0.5, cb - 0.5
    rgb = jnp.concatenate([y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb], axis=-1)
    return jnp.clip(rgb, 0, 1)
