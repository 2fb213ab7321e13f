"""Runs functions over `Plane`s strip by strip, in bounded memory, with exactly the whole image's result.

A pass reads one strip after the other from its source buffers, applies a function to it and writes what comes out,
later by the function's lag, to its target buffers; sums over the image add up on the way. A target may be a source:
what a pass writes it never reads again. The whole pass is one compiled program (`lax.scan`), shared by all blocks of
the same shape.

Buffers hold `margin` rows above the image, into which the strips that still wait for its first row write, and rows
below it up to whole strips. They begin as zeros, and functions whose results are given back write zeros outside the
image, so that those rows stay zero whatever a buffer served for before.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from esr_lefuse_jax.inference.rows import Plane, StreamedRows

# Largest lag of any pass, in rows of its finest input; a multiple of every ratio between a pass's planes.
MARGIN = 16

# For the CPU; other back ends ignore them. Unless told otherwise the compiler uses half of an AVX-512 unit, copies whole
# buffers that a pass reads and writes in place, and hands products and reductions to a library (YNNPACK) that leaves one
# of two cores waiting more often than the compiler's own do.
COMPILER_OPTIONS = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_copy_insertion_use_region_analysis": True,
    "xla_cpu_experimental_ynn_fusion_type": "",
}

PassFunction = Callable[..., tuple[tuple[Plane, ...], Any]]
Sizes = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the planes of one resolution lie in their buffers.

    Attributes:
        rows: rows of the padded image.
        columns: columns of the padded image.
        strip: rows in a strip.
        margin: rows above the image.
    """

    rows: int
    columns: int
    strip: int
    margin: int = MARGIN

    @property
    def buffer_rows(self) -> int:
        """Rows of a buffer: the margin, and strips until the last row has come through the longest lag."""
        return self.margin + self.strips(self.margin) * self.strip

    def strips(self, lag: int) -> int:
        """Strips after which all image rows have come out of a pass with this lag."""
        return math.ceil((self.rows + lag) / self.strip)

    def coarser(self) -> "Grid":
        """The grid of half the resolution that goes with this one's strips."""
        return dataclasses.replace(
            self,
            rows=self.rows // 2,
            columns=self.columns // 2,
            strip=self.strip // 2,
            margin=self.margin // 2,
        )

    def finer(self, scale: int) -> "Grid":
        """The grid of `scale` times the resolution."""
        return Grid(self.rows * scale, self.columns * scale, self.strip * scale, self.margin * scale)


@functools.partial(
    jax.jit,
    static_argnames=("function", "grids", "target_grids"),
    donate_argnames=("targets",),
    compiler_options=COMPILER_OPTIONS,
)
def run_pass(
    function: PassFunction,
    grids: tuple[Grid, ...],
    target_grids: tuple[Grid, ...],
    sources: Sequence[jax.Array | None],
    targets: Sequence[jax.Array],
    sizes: Sequence[tuple[jax.Array, jax.Array]],
    *arguments: Any,
) -> tuple[tuple[jax.Array, ...], Any]:
    """Runs a function over all strips.

    Args:
        function: `function(rows, *planes, *arguments) -> (planes, sums)`; a module-level function, so that the
            compiled program is found again.
        grids: one for each source; all have the same number of strips for the same rows.
        target_grids: one for each target.
        sources: buffers, or None for "the target of the same index" (updated in place).
        targets: buffers to write to; they are donated.
        sizes: for each source (height, width) of the images, (N,) each.
        *arguments: passed on.

    Returns:
        The targets, and the sums over the image.
    """
    filled = [targets[i] if source is None else source for i, source in enumerate(sources)]
    first = _strips(grids, filled, jnp.int32(0))
    count, kept, sums = pass_shapes(function, grids, target_grids, first, sizes, *arguments)

    def step(carry, index):
        targets, kept, sums = carry
        buffers = [targets[i] if source is None else source for i, source in enumerate(sources)]
        rows = StreamedRows(kept)
        given = as_planes(grids, sizes, _strips(grids, buffers, index), index)
        planes, more = function(rows, *given, *arguments)
        written = tuple(
            jax.lax.dynamic_update_slice_in_dim(
                target, plane.value.astype(target.dtype), plane.start + grid.margin, 1
            )
            for target, plane, grid in zip(targets, planes, target_grids, strict=True)
        )
        return (written, tuple(rows.keep), jax.tree.map(jnp.add, sums, more)), None

    start = (tuple(targets), *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (kept, sums)))
    (targets, _, sums), _ = jax.lax.scan(step, start, jnp.arange(count, dtype=jnp.int32))
    return tuple(targets), sums


def pass_shapes(
    function: PassFunction,
    grids: tuple[Grid, ...],
    target_grids: tuple[Grid, ...],
    strips: Sequence[Any],
    sizes: Sequence[Sizes],
    *arguments: Any,
) -> tuple[int, Any, Any]:
    """How many strips a pass takes, and the shapes of the rows that it keeps and of its sums."""
    lags: list[int] = []

    def step(strips: Sequence[jax.Array], index: jax.Array):
        rows = StreamedRows(None)
        planes, sums = function(rows, *as_planes(grids, sizes, strips, index), *arguments)
        lags.extend(plane.lag for plane in planes)
        return tuple(rows.keep), sums

    kept, sums = jax.eval_shape(step, strips, jax.ShapeDtypeStruct((), jnp.int32))
    count = max(
        (-(-(grid.rows + lag) // grid.strip) for grid, lag in zip(target_grids, lags, strict=True)),
        default=grids[0].strips(MARGIN),
    )
    return count, kept, sums


def as_planes(
    grids: Sequence[Grid], sizes: Sequence[Sizes], strips: Sequence[jax.Array], index: jax.Array
) -> list[Plane]:
    """The strips of number `index` as planes."""
    return [
        Plane(strip, index * grid.strip, 0, height, width)
        for strip, grid, (height, width) in zip(strips, grids, sizes, strict=True)
    ]


def _strips(grids: Sequence[Grid], buffers: Sequence[jax.Array], index: jax.Array) -> list[jax.Array]:
    return [
        jax.lax.dynamic_slice_in_dim(buffer, index * grid.strip + grid.margin, grid.strip, axis=1)
        for grid, buffer in zip(grids, buffers, strict=True)
    ]


class Planes(Protocol):
    """Where the planes between passes are kept: `InMemory` or `disk_planes.OnDisk`."""

    def take(self, grid: Grid, batch: int, channels: int, dtype: Any) -> Any:
        """A buffer for what lies between two passes, zero outside the image."""

    def give_back(self, grid: Grid, *buffers: Any) -> None:
        """Offers buffers that are no longer needed, and zero outside the image, to the next `take`."""

    def result(self, grid: Grid, batch: int, channels: int, dtype: Any) -> Any:
        """An empty buffer for what the last pass gives."""

    def load(self, image: Any, grid: Grid) -> Any:
        """Puts (N, H, W, C) into a buffer."""

    def rows(self, buffer: Any, grid: Grid) -> Any:
        """The image's rows of a buffer."""

    def run(
        self,
        function: PassFunction,
        grids: tuple[Grid, ...],
        target_grids: tuple[Grid, ...],
        sources: Sequence[Any],
        targets: Sequence[Any],
        sizes: Sequence[Sizes],
        *arguments: Any,
    ) -> tuple[tuple[Any, ...], Any]:
        """As `run_pass`."""


class InMemory:
    """Buffers as arrays on the device, and the passes over them.

    Keeps what is given back: memory that is new costs the first pass that writes it as much as the pass itself.

    Args:
        device: where new buffers go. Without one they are bound to no device, unlike what a pass returns, and JAX
            compiles a pass for each of the two.
    """

    def __init__(self, device: Any = None) -> None:
        self._device = device
        self._free: dict[tuple, list[jax.Array]] = {}

    def take(self, grid: Grid, batch: int, channels: int, dtype: Any) -> jax.Array:
        """A buffer that was given back, or a new one."""
        try:
            return self._free[grid, batch, channels, jnp.dtype(dtype)].pop()
        except (KeyError, IndexError):
            return self.result(grid, batch, channels, dtype)

    def give_back(self, grid: Grid, *buffers: jax.Array) -> None:
        """Keeps buffers for the next `take` of their kind."""
        for buffer in buffers:
            self._free.setdefault((grid, len(buffer), buffer.shape[-1], buffer.dtype), []).append(buffer)

    def result(self, grid: Grid, batch: int, channels: int, dtype: Any) -> jax.Array:
        """A new buffer."""
        shape = (batch, grid.buffer_rows, grid.columns, channels)
        return jnp.zeros(shape, dtype, device=self._device)

    def load(self, image: Any, grid: Grid) -> jax.Array:
        """Puts (N, H, W, C) into a buffer."""
        below = grid.buffer_rows - grid.margin - image.shape[1]
        return jnp.pad(image, ((0, 0), (grid.margin, below), (0, grid.columns - image.shape[2]), (0, 0)))

    def rows(self, buffer: jax.Array, grid: Grid) -> jax.Array:
        """The image's rows of a buffer."""
        return buffer[:, grid.margin : grid.margin + grid.rows]

    run = staticmethod(run_pass)
