"""Planes on disk: the passes of `streaming` for images whose planes do not fit into memory.

A pass runs the same compiled strip again and again from the host, reading its sources from temporary files and writing
its targets there; only strips are in memory. The files lie in the system's temporary folder (`TMPDIR` chooses another;
one that lives in memory gains nothing) and vanish with the process, whatever ends it.
"""

import functools
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.errors import OutputError
from esr_lefuse_jax.inference.rows import StreamedRows
from esr_lefuse_jax.inference.streaming import (
    COMPILER_OPTIONS,
    Grid,
    PassFunction,
    Sizes,
    as_planes,
    pass_shapes,
)


class DiskPlane:
    """A buffer (N, rows, columns, channels) in a file without a name, row after row.

    Raises:
        OutputError: there is no room for it.
    """

    def __init__(self, grid: Grid, batch: int, channels: int, dtype: Any):
        self.shape = (batch, grid.buffer_rows, grid.columns, channels)
        self._shape, self._dtype = (batch, grid.columns, channels), np.dtype(dtype)
        self._row_bytes = batch * grid.columns * channels * self._dtype.itemsize
        size = grid.buffer_rows * self._row_bytes
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OutputError(
                f"{folder}: {size >> 20} MiB for intermediate results, {free >> 20} MiB free: "
                "point TMPDIR to a larger disk or allow more with --max_memory"
            )
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (lives as long as the plane)
        self._file.truncate(size)  # reads as zeros, and takes room only where something was written

    def read(self, start: int, rows: int) -> np.ndarray:
        """Rows from `start` on, (N, rows, columns, channels)."""
        out = np.empty((rows, *self._shape), self._dtype)
        view, offset = out.reshape(-1).view(np.uint8).data, start * self._row_bytes
        while view:
            count = os.preadv(self._file.fileno(), [view], offset)
            if not count:
                raise OutputError("a temporary file ended early: was the temporary folder emptied?")
            view, offset = view[count:], offset + count
        return out.swapaxes(0, 1)

    def write(self, start: int, value: np.ndarray) -> None:
        """Replaces rows from `start` on.

        Raises:
            OutputError: the disk is full.
        """
        rows = np.ascontiguousarray(value.swapaxes(0, 1), self._dtype)
        view, offset = rows.reshape(-1).view(np.uint8).data, start * self._row_bytes
        try:
            while view:
                count = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()}: intermediate results cannot be written: {error.strerror}: "
                "point TMPDIR to a larger disk or allow more with --max_memory"
            ) from error


class HostPlane:
    """A buffer in the host's memory: what goes into the first pass, and what comes out of the last."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def read(self, start: int, rows: int) -> np.ndarray:
        """Rows from `start` on."""
        return self.array[:, start : start + rows]

    def write(self, start: int, value: np.ndarray) -> None:
        """Replaces rows from `start` on."""
        self.array[:, start : start + value.shape[1]] = value


class OnDisk:
    """The passes of `streaming.InMemory`, on planes that are in files."""

    def take(self, grid: Grid, batch: int, channels: int, dtype: Any) -> DiskPlane:
        """A new file, empty."""
        return DiskPlane(grid, batch, channels, jnp.dtype(dtype))

    def give_back(self, grid: Grid, *planes: DiskPlane) -> None:
        """Nothing to keep: a file takes no room once nobody holds it."""

    def result(self, grid: Grid, batch: int, channels: int, dtype: Any) -> HostPlane:
        """An empty buffer for what the last pass gives."""
        return HostPlane(np.zeros((batch, grid.buffer_rows, grid.columns, channels), jnp.dtype(dtype)))

    def load(self, image: Any, grid: Grid) -> HostPlane:
        """Puts (N, H, W, C) into a buffer."""
        image = np.asarray(image)
        below = grid.buffer_rows - grid.margin - image.shape[1]
        return HostPlane(
            np.pad(image, ((0, 0), (grid.margin, below), (0, grid.columns - image.shape[2]), (0, 0)))
        )

    def rows(self, plane: HostPlane, grid: Grid) -> np.ndarray:
        """The image's rows of a buffer."""
        return plane.array[:, grid.margin : grid.margin + grid.rows]

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
        """As `streaming.run_pass`."""
        filled = [targets[i] if source is None else source for i, source in enumerate(sources)]
        first = [plane.read(grid.margin, grid.strip) for plane, grid in zip(filled, grids, strict=True)]
        count, kept, sums = pass_shapes(function, grids, target_grids, first, sizes, *arguments)
        kept, sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (kept, sums))
        for index in range(count):
            strips = [
                plane.read(index * grid.strip + grid.margin, grid.strip)
                for plane, grid in zip(filled, grids, strict=True)
            ]
            values, starts, kept, sums = _step(
                function, grids, strips, jnp.int32(index), kept, sums, sizes, *arguments
            )
            for target, grid, value, start in zip(targets, target_grids, values, starts, strict=True):
                target.write(int(start) + grid.margin, np.asarray(value))
        return tuple(targets), sums


@functools.partial(jax.jit, static_argnames=("function", "grids"), compiler_options=COMPILER_OPTIONS)
def _step(
    function: PassFunction,
    grids: tuple[Grid, ...],
    strips: Sequence[jax.Array],
    index: jax.Array,
    kept: tuple[jax.Array, ...],
    sums: Any,
    sizes: Sequence[Sizes],
    *arguments: Any,
):
    rows = StreamedRows(kept)
    given, more = function(rows, *as_planes(grids, sizes, strips, index), *arguments)
    values, starts = tuple(plane.value for plane in given), tuple(plane.start for plane in given)
    return values, starts, tuple(rows.keep), jax.tree.map(jnp.add, sums, more)
