"""Means over the pixels of a convolution's output, without the convolution.

The mean of a zero-padded 3x3 convolution is linear in nine sums, one for each tap, over the pixels which that tap
visits. Each of them is the sum over the whole image less a border row, less a border column, plus their corner. This
turns the channel recalibration's squeeze convolutions, about half of the fusion network's arithmetic, into one pass
of additions. Exact: it is the same sum in another order.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def border_sums(x: jax.Array) -> jax.Array:
    """The nine region sums from which every 3x3 window sum follows.

    Args:
        x: (N, H, W, C).

    Returns:
        (N, 3, 3, C) in float32 or wider: [:, i, j] sums over (all, first, last)[i] rows and (all, first, last)[j]
        columns.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    regions = []
    for rows in (x, x[:, :1], x[:, -1:]):
        parts = (rows, rows[:, :, :1], rows[:, :, -1:])
        regions.append(jnp.stack([jnp.sum(part, axis=(1, 2), dtype=wide) for part in parts], axis=1))
    return jnp.stack(regions, axis=1)


def _forward(x: jax.Array):
    return border_sums(x), x


def _backward(x: jax.Array, grad: jax.Array):
    """One pass; the automatic gradient would pad each of the nine regions to the whole image and add them up."""

    def first_and_last(size: int, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        index = jax.lax.broadcasted_iota(jnp.int32, (1, x.shape[1], x.shape[2], 1), axis)
        return jnp.ones_like(index, bool), index == 0, index == size - 1

    total = jnp.zeros((), grad.dtype)
    for i, rows in enumerate(first_and_last(x.shape[1], 1)):
        for j, columns in enumerate(first_and_last(x.shape[2], 2)):
            total = total + jnp.where(rows & columns, grad[:, i, j][:, None, None], jnp.zeros((), grad.dtype))
    return (total.astype(x.dtype),)


border_sums.defvjp(_forward, _backward)


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
