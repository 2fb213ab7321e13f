"""Geometric self-ensemble of the super-resolution network (Lim et al., EDSR, CVPRW 2017).

The fixed fused image goes through the network in several orientations; the results, turned back, are averaged.
"""

from collections.abc import Callable

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]

ENSEMBLES = ("none", "x4", "x8", "reference")


def _turned(quarters: int, flipped: bool) -> tuple[Transform, Transform]:
    """Flips the columns if asked, then turns by quarters; and the way back. Arrays are (..., H, W, C)."""

    def there(image: np.ndarray) -> np.ndarray:
        image = image[..., ::-1, :] if flipped else image
        return np.rot90(image, quarters, axes=(-3, -2))

    def back(image: np.ndarray) -> np.ndarray:
        image = np.rot90(image, -quarters, axes=(-3, -2))
        return image[..., ::-1, :] if flipped else image

    return there, back


# Identity, rows flipped (columns flipped and half a turn), columns flipped, a quarter turn.
_FOUR = (_turned(0, False), _turned(2, True), _turned(0, True), _turned(1, False))
_EIGHT = tuple(_turned(quarters, flipped) for flipped in (False, True) for quarters in range(4))


def run(enlarge: Transform, image: np.ndarray, ensemble: str) -> np.ndarray:
    """Enlarges an image with a self-ensemble.

    Args:
        enlarge: the network, (N, H, W, 3) to (N, sH, sW, 3).
        image: (N, H, W, 3) in [0, 1].
        ensemble: `none`; `x4` the mean of the four orientations of the original; `x8` the mean of all eight;
            `reference` the original's sum of four divided by five, 20 % too dark, for parity only.

    Returns:
        (N, sH, sW, 3).
    """
    if ensemble == "none":
        return enlarge(image)
    transforms = _EIGHT if ensemble == "x8" else _FOUR
    total: np.ndarray | None = None
    for there, back in transforms:
        result = back(enlarge(np.ascontiguousarray(there(image))))
        total = np.array(result) if total is None else np.add(total, result, out=total)
    assert total is not None
    total /= np.float32(5 if ensemble == "reference" else len(transforms))
    return total
