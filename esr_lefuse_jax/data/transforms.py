"""Crops and turns that several aligned pictures share: arrays (H, W) or (H, W, C)."""

from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: np.ndarray, scale: int = 1) -> np.ndarray:
        """Cuts the rectangle out of an array that is `scale` times as large as the one it was made for."""
        rows = slice(self.top * scale, (self.top + self.height) * scale)
        columns = slice(self.left * scale, (self.left + self.width) * scale)
        return array[rows, columns]

    def grown(self, margin: int, height: int, width: int) -> "Window":
        """The rectangle with a margin on each side, as far as a picture of `height` x `width` reaches."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom = min(height, self.top + self.height + margin)
        right = min(width, self.left + self.width + margin)
        return Window(top, left, bottom - top, right - left)

    def inside(self, outer: "Window") -> "Window":
        """The same rectangle in the coordinates of a crop `outer` that contains it."""
        return Window(self.top - outer.top, self.left - outer.left, self.height, self.width)


def random_window(array: np.ndarray, side: int, rng: np.random.Generator) -> Window:
    """A square of `side` pixels anywhere in a picture that is at least that large."""
    height, width = array.shape[:2]
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return Window(int(top), int(left), side, side)


def at_least(array: np.ndarray, side: int) -> np.ndarray:
    """Mirrors a picture beyond its lower and right border until both sides have at least `side` pixels."""
    while min(array.shape[:2]) < side:
        grow = [min(max(0, side - length), length) for length in array.shape[:2]]
        pad = [(0, grow[0]), (0, grow[1])] + [(0, 0)] * (array.ndim - 2)
        array = np.pad(array, pad, mode="symmetric")
    return array


def dihedral(array: np.ndarray, which: int) -> np.ndarray:
    """One of the eight flips and quarter turns of a square; `which` in 0..7, 0 leaves it as it is."""
    array = np.rot90(array, which % 4)
    return np.ascontiguousarray(array[:, ::-1] if which >= 4 else array)
