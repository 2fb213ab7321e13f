"""The up-sampling head of the ESR-U-Net as one convolution on the low-resolution grid.

conv3x3 -> PixelShuffle(r) -> conv3x3 is linear, so it equals one 5x5 convolution to 3 r^2 channels, then the shuffle,
and the 64 r^2 channels between (5.4 GB for a 1280x1024 image) never exist. Only the outermost ring of pixels differs:
there the second convolution pads with zeros where the composed one continues the first convolution beyond the image.
What a row or column beyond the image contributes is linear too and reaches one row or column of the input, so four
thin convolutions take it away again (and one pixel in each corner, which two of them took).

Channels of the composed convolution are ordered (dy, dx, colour).
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.inference.rows import Plane, Rows, convolve, per_image

Tree = Mapping[str, Any]


def compose(first: Tree, second: Tree, scale: int, dtype: Any) -> dict[str, np.ndarray]:
    """Composes `upsample_0` and `upsample_2` (kernel and bias each), in float64.

    Returns:
        kernel (5, 5, C, 3 r^2) and bias (3 r^2); `top` and `bottom` (5, C, 3 r^2), `left` and `right` (5, C, 3 r^2):
        what the row or column beyond that side contributes; `corners` (2, 2, C, 3 r^2); each with its bias.
    """
    w1 = np.asarray(first["kernel"], np.float64)  # (3, 3, C, C' r^2), PyTorch's order (c, dy, dx)
    channels, inner = w1.shape[2], w1.shape[3] // scale**2
    w1 = w1.reshape(3, 3, channels, inner, scale, scale)
    b1 = np.asarray(first["bias"], np.float64).reshape(inner, scale, scale)
    w2 = np.asarray(second["kernel"], np.float64)  # (3, 3, C', 3)
    total = functools.partial(_sum_of_taps, w1, b1, w2, scale)

    taps = (-1, 0, 1)
    kernel, bias = total(taps, taps, None, None)
    bias = bias + np.tile(np.asarray(second["bias"], np.float64), scale**2)
    tree = {"kernel": kernel, "bias": bias}
    for name, ty, tx in (("top", -1, None), ("bottom", 1, None), ("left", None, -1), ("right", None, 1)):
        part, tree[f"{name}_bias"] = total(
            taps if ty is None else (ty,), taps if tx is None else (tx,), ty, tx
        )
        # Of the rows that reach beyond the image only the middle one, the border itself, is not zero.
        tree[name] = part[2] if tx is None else part[:, 2]
    corners = [[total((ty,), (tx,), ty, tx) for tx in (-1, 1)] for ty in (-1, 1)]
    tree["corners"] = np.stack([np.stack([part[2, 2] for part, _ in row]) for row in corners])
    tree["corners_bias"] = np.stack([np.stack([b for _, b in row]) for row in corners])
    return {key: value.astype(dtype) for key, value in tree.items()}


def _sum_of_taps(
    w1: np.ndarray,
    b1: np.ndarray,
    w2: np.ndarray,
    scale: int,
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    beyond_row: int | None,
    beyond_column: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Composed 5x5 kernel and bias of the second convolution's taps `rows` x `columns`.

    With `beyond_row` or `beyond_column` (-1 or 1) only taps that leave the low-resolution pixel on that side count.
    """
    channels, colours = w1.shape[2], w2.shape[3]
    kernel = np.zeros((5, 5, channels, scale, scale, colours))
    bias = np.zeros((scale, scale, colours))
    for dy in range(scale):
        for dx in range(scale):
            for ty in rows:
                for tx in columns:
                    cell_y, sub_y = divmod(dy + ty, scale)
                    cell_x, sub_x = divmod(dx + tx, scale)
                    if (beyond_row or cell_y) != cell_y or (beyond_column or cell_x) != cell_x:
                        continue
                    tap = w2[ty + 1, tx + 1]
                    y, x = cell_y + 1, cell_x + 1
                    kernel[y : y + 3, x : x + 3, :, dy, dx] += w1[..., sub_y, sub_x] @ tap
                    bias[dy, dx] += b1[:, sub_y, sub_x] @ tap
    return kernel.reshape(5, 5, channels, -1), bias.reshape(-1)


def enlarge(rows: Rows, p: Tree, x: Plane, scale: int) -> Plane:
    """Applies the composed head to (N, R, W, C): gives (N, r R, r W, 3). x must be zero outside the image."""
    window = rows.extend(x, 2, 2)
    out = window.with_value(convolve(window.value, p["kernel"], p["bias"]))
    (x,) = (rows.delay(x, out.lag - x.lag),)

    zero, last_row, last_column = jnp.zeros_like(x.height), x.height - 1, x.width - 1
    value = out.value

    def take(value: jax.Array, where: jax.Array, contribution: jax.Array) -> jax.Array:
        return value - jnp.where(where, contribution, jnp.zeros((), value.dtype))

    row_is = {"top": out.row_indices == 0, "bottom": out.row_indices == per_image(last_row)}
    column_is = {"left": out.column_indices == 0, "right": out.column_indices == per_image(last_column)}
    for side, index in (("top", zero), ("bottom", last_row)):
        line = convolve(x.row(index)[:, None], p[side][None], p[f"{side}_bias"])  # (N, 1, W, F)
        value = take(value, row_is[side], line)
    for side, index in (("left", zero), ("right", last_column)):
        line = convolve(
            window.column(index)[:, :, None], p[side][:, None], p[f"{side}_bias"], side=0
        )  # (N, R, 1, F)
        value = take(value, column_is[side], line)
    for i, (vertical, row) in enumerate((("top", zero), ("bottom", last_row))):
        for j, (horizontal, column) in enumerate((("left", zero), ("right", last_column))):
            pixel = jnp.take_along_axis(x.row(row), column[:, None, None], axis=1)  # (N, 1, C)
            both = convolve(pixel[:, None], p["corners"][i, j][None, None], p["corners_bias"][i, j])
            value = take(value, row_is[vertical] & column_is[horizontal], -both)
    return enlarged(out.with_value(value), scale)


def enlarged(x: Plane, scale: int) -> Plane:
    """Shuffles channels (dy, dx, colour) into pixels."""
    n, r, w, c = x.value.shape
    value = x.value.reshape(n, r, w, scale, scale, c // scale**2).transpose(0, 1, 3, 2, 4, 5)
    value = value.reshape(n, r * scale, w * scale, -1)
    return Plane(value, x.start * scale, x.lag * scale, x.height * scale, x.width * scale)
