"""Means over the pixels of a convolution's output, without the convolution.

The mean of a zero-padded 3x3 convolution is linear in nine sums, one for each tap, over the pixels which that tap
visits. Each of them is the sum over the whole image less a border row, less a border column, plus their corner. This
turns the channel recalibration's squeeze convolutions, about half of the fusion network's arithmetic, into one pass
of additions. Exact: it is the same sum in another order.
"""

import jax
import jax.numpy as jnp


def border_sums(x: jax.Array, height: jax.Array | int, width: jax.Array | int) -> jax.Array:
    """The nine region sums from which every 3x3 window sum follows.

    Args:
        x: (N, H, W, C), zero outside its first `height` rows and `width` columns.
        height: rows that belong to the image, 1 to H; may be traced.
        width: columns that belong to the image, 1 to W; may be traced.

    Returns:
        (N, 3, 3, C) in float32 or wider: [:, i, j] sums over (all, first, last)[i] rows and (all, first, last)[j]
        columns.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    by_column = jnp.sum(x, axis=1, dtype=wide)  # (N, W, C): all rows
    first = x[:, 0].astype(wide)
    last = jax.lax.dynamic_index_in_dim(x, height - 1, axis=1, keepdims=False).astype(wide)
    rows = jnp.stack([by_column, first, last], axis=1)  # (N, 3, W, C)
    right = jax.lax.dynamic_index_in_dim(rows, width - 1, axis=2, keepdims=False)
    return jnp.stack([jnp.sum(rows, axis=2), rows[:, :, 0], right], axis=2)


def window_sums(regions: jax.Array) -> jax.Array:
    """Turns `border_sums` into sums over the pixels that each tap of a zero-padded 3x3 convolution visits.

    A tap above the centre never visits the last row, one below never the first; columns alike.

    Args:
        regions: (N, 3, 3, C) from `border_sums`.

    Returns:
        (N, 3, 3, C), indexed like the kernel.
    """
    all_, first, last = regions[:, 0], regions[:, 1], regions[:, 2]
    rows = jnp.stack([all_ - last, all_, all_ - first], axis=1)
    all_, first, last = rows[:, :, 0], rows[:, :, 1], rows[:, :, 2]
    return jnp.stack([all_ - last, all_, all_ - first], axis=2)
