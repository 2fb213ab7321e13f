"""Sums over pixels."""

import jax
import jax.numpy as jnp


def pixel_sum(x: jax.Array) -> jax.Array:
    """Sums (N, H, W, C) over the pixels: (N, C), float32 or wider.

    On the CPU as products of rows with ones: the compiler splits a reduction over pixels into windows, which takes
    four times as long. Row by row, because one running sum over a large image would lose a digit.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def by_row(x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        rows = x.astype(wide).reshape(n * height, width, channels)
        sums = jax.lax.dot_general(jnp.ones((n * height, width), wide), rows, (((1,), (1,)), ((0,), (0,))))
        return jnp.sum(sums.reshape(n, height, channels), axis=1)

    return jax.lax.platform_dependent(x, cpu=by_row, default=lambda x: jnp.sum(x, axis=(1, 2), dtype=wide))
