"""Which padded shapes the images of a folder run in, so that a few compiled programs serve them all.

Padding changes no result (the networks mask it), it only costs time. So a shape is reused while the padding stays a
small part of the work, and a new one is opened otherwise.
"""

import dataclasses
from collections.abc import Iterable

MULTIPLE = 8  # the fusion network halves the size three times


def _round_up(size: int) -> int:
    return max(-(-size // MULTIPLE) * MULTIPLE, 2 * MULTIPLE)


@dataclasses.dataclass
class Canvases:
    """The padded shapes in use.

    Attributes:
        waste: largest share of padding for which an open shape is reused.
        shapes: open shapes, (height, width).
    """

    waste: float = 0.2
    shapes: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def plan(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Opens the shapes for a whole folder at once: from the largest image down, one for each that needs it."""
        for height, width in sorted(set(sizes), key=lambda size: size[0] * size[1], reverse=True):
            self.fit(height, width)

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The smallest open shape that holds an image without waste; opens one if there is none."""
        fitting = [
            shape
            for shape in self.shapes
            if shape[0] >= height
            and shape[1] >= width
            and height * width >= (1 - self.waste) * shape[0] * shape[1]
        ]
        if fitting:
            return min(fitting, key=lambda shape: shape[0] * shape[1])
        shape = (_round_up(height), _round_up(width))
        if shape not in self.shapes:
            self.shapes.append(shape)
        return shape
