"""Input checks and the one gray conversion that all gray metrics share."""

import numpy as np

from esr_lefuse_jax.errors import MetricError
from esr_lefuse_jax.metrics.filters import row_strips


def as_image(image: np.ndarray, name: str = "image") -> np.ndarray:
    """Checks an image and returns it as (H, W) or (H, W, 3), dtype unchanged.

    Args:
      image: (H, W), (H, W, 1) or (H, W, 3), any real dtype, values 0..255.
      name: what to call the image in an error.

    Returns:
      The same values; a single channel axis is dropped.

    Raises:
      MetricError: empty, of another shape, not finite, outside 0..255, or plainly in [0, 1].
    """
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise MetricError(f"{name}: shape {image.shape} is not (H, W), (H, W, 1) or (H, W, 3)")
    if image.dtype == np.uint8:
        return image
    if not (np.issubdtype(image.dtype, np.floating) or np.issubdtype(image.dtype, np.integer)):
        raise MetricError(f"{name}: dtype {image.dtype} is not a real number type")
    low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # min and max propagate NaN
        raise MetricError(f"{name}: holds NaN or infinite values")
    if low < 0 or high > 255:
        raise MetricError(f"{name}: values {low:g}..{high:g} leave 0..255")
    if high <= 1 and np.any(image != np.floor(image)):
        raise MetricError(f"{name}: values lie in [0, 1], metrics take 0..255: multiply by 255")
    return image


def to_gray(image: np.ndarray, name: str = "image") -> np.ndarray:
    """Quantised BT.601 gray: `round(.299 R + .587 G + .114 B)`, ties up, full range.

    Quantising comes first because EN and MI count integer levels; so every gray metric sees the same image.

    Args:
      image: (H, W[, 1 or 3]), 0..255; a single channel is only rounded.
      name: what to call the image in an error.

    Returns:
      (H, W) uint8.

    Raises:
      MetricError: see `as_image`.
    """
    image = as_image(image, name)
    if image.ndim == 2:
        if image.dtype == np.uint8:
            return image
        return np.floor(image.astype(np.float64) + 0.5).astype(np.uint8)
    gray = np.empty(image.shape[:2], np.uint8)
    for start, stop in row_strips(len(gray)):
        gray[start:stop] = _weighted(image[start:stop])
    return gray


def _weighted(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        # Thousandths as integers: ties are exact, where a float sum would fall to either side.
        red, green, blue = (image[..., c].astype(np.uint32) for c in range(3))
        return (299 * red + 587 * green + 114 * blue + 500) // 1000
    weighted = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    # A float image of integers must agree with its uint8 twin, so the last bits of the sum are dropped first.
    return np.floor(np.round(weighted, 9) + 0.5)


def same_size(*images: np.ndarray) -> None:
    """Refuses images that differ in height or width.

    Raises:
      MetricError: naming all sizes.
    """
    sizes = [image.shape[:2] for image in images]
    if len(set(sizes)) > 1:
        raise MetricError(f"sizes differ: {', '.join(f'{w}x{h}' for h, w in sizes)}")
