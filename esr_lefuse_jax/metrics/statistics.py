"""Metrics of one image: entropy, contrast and sharpness (EN, SD, SF, AG)."""

import numpy as np

from esr_lefuse_jax.errors import MetricError
from esr_lefuse_jax.metrics.filters import row_strips
from esr_lefuse_jax.metrics.gray import to_gray


def entropy(image: np.ndarray) -> float:
    """EN: Shannon entropy of the quantised gray image over 256 integer bins, in bits (0 for a flat image)."""
    counts = _histogram(image)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0  # + 0.0 turns the -0.0 of a flat image into 0.0


def standard_deviation(image: np.ndarray) -> float:
    """SD: population standard deviation of the quantised gray image (0 for a flat image)."""
    counts = _histogram(image)
    levels = np.arange(256)
    mean = counts @ levels / counts.sum()
    return float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))


def spatial_frequency(image: np.ndarray, over_pixels: bool = False) -> float:
    """SF: `sqrt(mean dx^2 + mean dy^2)` of the quantised gray image (Eskicioglu and Fisher, 1995).

    Args:
      image: (H, W[, 1 or 3]), 0..255, at least 2x2.
      over_pixels: divide both sums by H*W (variant `sf_hw`) instead of by the number of differences.

    Raises:
      MetricError: the image has one row or one column.
    """
    gray = _needs_2x2(to_gray(image), "SF")
    height, width = gray.shape
    sum_x = sum_y = 0
    for start, stop in row_strips(height):
        strip = gray[start : stop + 1].astype(np.int32)
        sum_x += int((np.diff(strip[: stop - start], axis=1) ** 2).sum(dtype=np.int64))
        sum_y += int((np.diff(strip, axis=0) ** 2).sum(dtype=np.int64))
    if over_pixels:
        return float(np.sqrt((sum_x + sum_y) / (height * width)))
    return float(np.sqrt(sum_x / (height * (width - 1)) + sum_y / ((height - 1) * width)))


def average_gradient(image: np.ndarray) -> float:
    """AG: mean of `sqrt((gx^2 + gy^2) / 2)`, central differences, one-sided at the borders, over H*W.

    Args:
      image: (H, W[, 1 or 3]), 0..255, at least 2x2.

    Raises:
      MetricError: the image has one row or one column.
    """
    gray = _needs_2x2(to_gray(image), "AG")
    height, width = gray.shape
    total = 0.0
    for start, stop in row_strips(height):
        # One row more on inner sides gives central differences there; the image's own ends stay one-sided.
        first, last = max(start - 1, 0), min(stop + 1, height)
        if last - first < 2:
            first -= 1
        rows = gray[first:last].astype(np.float64)
        gy, gx = np.gradient(rows, axis=0), np.gradient(rows, axis=1)
        keep = slice(start - first, stop - first)
        total += np.sqrt((gx[keep] ** 2 + gy[keep] ** 2) / 2).sum()
    return float(total / (height * width))


def average_gradient_forward(image: np.ndarray, half: bool = True) -> float:
    """AG with forward differences over (H-1)(W-1): variants `ag_forward` and `ag_forward_nohalf`.

    Args:
      image: (H, W[, 1 or 3]), 0..255, at least 2x2.
      half: whether the squared gradient is halved under the root.

    Raises:
      MetricError: the image has one row or one column.
    """
    gray = _needs_2x2(to_gray(image), "AG")
    height, width = gray.shape
    total = 0.0
    for start, stop in row_strips(height - 1):
        strip = gray[start : stop + 1].astype(np.float64)
        squares = np.diff(strip, axis=1)[:-1] ** 2 + np.diff(strip, axis=0)[:, :-1] ** 2
        total += np.sqrt(squares / 2 if half else squares).sum()
    return float(total / ((height - 1) * (width - 1)))


def _histogram(image: np.ndarray) -> np.ndarray:
    """How many pixels of the quantised gray image have each of the 256 levels."""
    gray = to_gray(image)
    counts = np.zeros(256, np.int64)
    for start, stop in row_strips(len(gray)):
        counts += np.bincount(gray[start:stop].ravel(), minlength=256)
    return counts


def _needs_2x2(gray: np.ndarray, metric: str) -> np.ndarray:
    if min(gray.shape) < 2:
        raise MetricError(f"{metric} is not defined for {gray.shape[1]}x{gray.shape[0]}: it needs 2x2 pixels")
    return gray
