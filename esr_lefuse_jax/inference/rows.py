"""Planes of an image, whole or streamed in strips of rows, behind one interface.

The fast networks are written once, against `Rows`. Two implementations decide what a spatial operation sees:

- `WholeRows`: the plane is the whole (padded) image; a window is zero padding above and below.
- `StreamedRows`: the plane is a strip. Every spatial operation keeps the last rows of its input from one strip to
  the next, so that nothing is approximated and next to nothing computed twice: each operation only trails its input
  by the rows that it still has to wait for. `Plane.lag` counts them; `align` delays the planes that are ahead.

Pixels outside the image are kept at zero before every spatial operation (`masked`), which makes the result that of
an unpadded image, for images of different sizes in one batch and for any strip height.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from esr_lefuse_jax.ops.narrow import FEW, narrow_conv
from esr_lefuse_jax.ops.strided import interleave

_CONV_DIMS = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Plane:
    """Rows of a feature map.

    Attributes:
        value: (N, R, W, C).
        start: image row of the first of the R rows; negative where a strip still waits for the image's first row.
        lag: rows by which a strip trails the input strip, in this plane's resolution; 0 for whole images.
        height: (N,) rows that the image has at this resolution.
        width: (N,) columns that the image has at this resolution.
    """

    value: jax.Array
    start: jax.Array | int
    lag: int
    height: jax.Array
    width: jax.Array

    def map(self, function: Callable[[jax.Array], jax.Array]) -> "Plane":
        """Applies a function that works pixel by pixel."""
        return dataclasses.replace(self, value=function(self.value))

    def settled(self) -> "Plane":
        """The same plane, computed once (see `settle`)."""
        return self.with_value(settle(self.value, jnp.all(self.height >= 0)))

    def with_value(self, value: jax.Array) -> "Plane":
        """The same rows with other content."""
        return dataclasses.replace(self, value=value)

    @property
    def row_indices(self) -> jax.Array:
        """Image row of each row, (1, R, 1, 1)."""
        return (self.start + jnp.arange(self.value.shape[1]))[None, :, None, None]

    @property
    def column_indices(self) -> jax.Array:
        """Image column of each column, (1, 1, W, 1)."""
        return jnp.arange(self.value.shape[2])[None, None, :, None]

    @property
    def valid(self) -> jax.Array:
        """Which pixels belong to the image, (N, R, W, 1) bool."""
        rows, columns = self.row_indices, self.column_indices
        inside_rows = (rows >= 0) & (rows < per_image(self.height))
        return inside_rows & (columns < per_image(self.width))

    def masked(self) -> "Plane":
        """Zero outside the image."""
        return self.with_value(jnp.where(self.valid, self.value, jnp.zeros((), self.value.dtype)))

    def row(self, index: jax.Array) -> jax.Array:
        """The image row `index` (N,) as (N, W, C); some other row when it is not here, so mask by `row_indices`."""
        local = jnp.clip(index - self.start, 0, self.value.shape[1] - 1)
        return jnp.take_along_axis(self.value, per_image(local), axis=1)[:, 0]

    def column(self, index: jax.Array) -> jax.Array:
        """The image column `index` (N,) as (N, R, C)."""
        return jnp.take_along_axis(self.value, per_image(index), axis=2)[:, :, 0]


def settle(values: Any, true: jax.Array) -> Any:
    """The same arrays, computed once.

    XLA on the CPU repeats cheap-looking work, a 7x7 depthwise convolution say, in each of its consumers, and drops
    `optimization_barrier` before it decides so. It does not fuse across a conditional.

    Args:
        values: a tree of arrays.
        true: a condition that always holds, which the compiler cannot know.
    """

    def fenced(values: Any) -> Any:
        return jax.lax.cond(true, lambda v: v, lambda v: jax.tree.map(jnp.zeros_like, v), values)

    return jax.lax.platform_dependent(values, cpu=fenced, default=lambda v: v)


def per_image(values: jax.Array) -> jax.Array:
    """Shapes (N,) as (N, 1, 1, 1)."""
    return values[:, None, None, None]


def convolve(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, side: int | None = None
) -> jax.Array:
    """A convolution that pads columns but not rows; `side` columns of padding, half the kernel by default."""
    padding = kernel.shape[1] // 2 if side is None else side

    def general(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((0, 0), (padding, padding)), dimension_numbers=_CONV_DIMS
        )

    if kernel.shape[:2] == (1, 1):
        y = jax.lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    elif min(kernel.shape[2:]) <= FEW:
        narrow = functools.partial(narrow_conv, side=padding)
        y = jax.lax.platform_dependent(x, kernel, cpu=narrow, default=general)
    else:
        y = general(x, kernel)
    return y if bias is None else y + bias


class Rows:
    """What both kinds of rows share: everything follows from `extend` and `delay`."""

    def extend(self, x: Plane, above: int, below: int) -> Plane:
        """Adds the rows above and below that a window needs; the result's `start` is the window's first output."""
        raise AssertionError("implemented by WholeRows and StreamedRows")

    def delay(self, x: Plane, rows: int) -> Plane:
        """Makes a strip trail by further rows."""
        raise AssertionError("implemented by WholeRows and StreamedRows")

    def align(self, *planes: Plane) -> tuple[Plane, ...]:
        """Delays the planes that are ahead of the slowest."""
        slowest = max(plane.lag for plane in planes)
        return tuple(self.delay(plane, slowest - plane.lag) for plane in planes)

    def conv(self, x: Plane, kernel: jax.Array, bias: jax.Array | None = None) -> Plane:
        """Convolution of odd size, stride 1, zero padding, same size. x must be zero outside the image."""
        half = kernel.shape[0] // 2
        extended = self.extend(x, half, half) if half else x
        return extended.map(lambda v: convolve(v, kernel, bias))

    def halve(self, x: Plane, kernel: jax.Array, bias: jax.Array) -> Plane:
        """3x3 convolution with stride 2 and padding 1."""
        if x.lag % 2:
            x = self.delay(x, 1)
        extended = self.extend(x, 1, 0)
        # With an even number of rows and columns the window never reaches past the far end.
        value = jax.lax.conv_general_dilated(
            extended.value, kernel, (2, 2), ((0, 0), (1, 0)), dimension_numbers=_CONV_DIMS
        )
        return Plane(value + bias, x.start // 2, x.lag // 2, (x.height + 1) // 2, (x.width + 1) // 2)

    def double(self, x: Plane, kernel: jax.Array) -> Plane:
        """Transposed 4x4 convolution with stride 2 and padding 1, from its 2x2 phases (`phase_kernel`).

        Output pixel (2i + p, 2j + q) is a 2x2 convolution at offset (p, q); all four phases come from one
        convolution, and the shuffle picks each at its own offset. XLA's dilated form multiplies mostly by zeros.
        """
        extended = self.extend(x, 1, 1)
        phases = convolve(extended.value, kernel, side=1)  # (N, R + 1, W + 1, 4C)
        value = interleave(phases, phases.shape[1] - 1, phases.shape[2] - 1)
        return Plane(value, 2 * extended.start, 2 * extended.lag, 2 * x.height, 2 * x.width)

    def shrink_to(self, x: Plane, height: jax.Array, width: jax.Array) -> Plane:
        """Bilinear resize of a map that is at most one row and one column larger than (height, width).

        For H = 2h - 1 the source of row i is i + (i + 1/2) / H: always between rows i and i + 1. Columns alike.
        """
        extended = self.extend(x, 0, 1)
        value = extended.value
        rows = value.shape[1] - 1
        upper, lower = value[:, :rows], value[:, 1:]
        out = Plane(upper, extended.start, extended.lag, height, width)
        dtype = value.dtype

        def fraction(index: jax.Array, size: jax.Array, source: jax.Array) -> jax.Array:
            t = (index.astype(jnp.promote_types(dtype, jnp.float32)) + 0.5) / per_image(size)
            return jnp.where(per_image(source != size), t, jnp.zeros_like(t)).astype(dtype)

        t = fraction(out.row_indices, height, x.height)
        value = upper + t * (lower - upper)
        right = jnp.pad(value[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
        t = fraction(out.column_indices, width, x.width)
        return out.with_value(value + t * (right - value))


class WholeRows(Rows):
    """Whole images: windows are padded with zeros, nothing trails."""

    def extend(self, x: Plane, above: int, below: int) -> Plane:
        """Pads zero rows."""
        return x.with_value(jnp.pad(x.value, ((0, 0), (above, below), (0, 0), (0, 0))))

    def delay(self, x: Plane, rows: int) -> Plane:
        """Nothing to wait for."""
        return x


class StreamedRows(Rows):
    """Strips in order from the top; keeps what the next strip needs.

    Args:
        kept: the rows kept from the strip before, in the order of the operations; None before the first strip.
    """

    def __init__(self, kept: Sequence[jax.Array] | None):
        self._kept = kept
        self.keep: list[jax.Array] = []

    def _after(self, x: Plane, rows: int) -> jax.Array:
        """The `rows` rows before this strip, then the strip; remembers the last `rows` of it."""
        index = len(self.keep)
        n, _, w, c = x.value.shape
        before = jnp.zeros((n, rows, w, c), x.value.dtype) if self._kept is None else self._kept[index]
        joined = jnp.concatenate([before, x.value], axis=1)
        self.keep.append(joined[:, joined.shape[1] - rows :])
        return joined

    def extend(self, x: Plane, above: int, below: int) -> Plane:
        """Joins the last rows of the strip before; the output trails by `below` more rows."""
        value = self._after(x, above + below)
        return dataclasses.replace(x, value=value, start=x.start - below, lag=x.lag + below)

    def delay(self, x: Plane, rows: int) -> Plane:
        """Gives the strip that ends `rows` rows earlier."""
        if not rows:
            return x
        value = self._after(x, rows)[:, : x.value.shape[1]]
        return dataclasses.replace(x, value=value, start=x.start - rows, lag=x.lag + rows)
