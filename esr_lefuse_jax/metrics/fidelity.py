"""Distance to a reference image: PSNR and SSIM."""

import math

import numpy as np

from esr_lefuse_jax.errors import MetricError
from esr_lefuse_jax.metrics.filters import correlate_valid, gaussian_taps, row_strips
from esr_lefuse_jax.metrics.gray import as_image, same_size, to_gray

_SSIM_TAPS = gaussian_taps(11, 1.5)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(reference: np.ndarray, image: np.ndarray) -> float:
    """PSNR in dB, `10 log10(255^2 / MSE)` over all pixels and channels; infinite for identical images.

    Args:
      reference: (H, W[, 1 or 3]), 0..255.
      image: same shape.

    Raises:
      MetricError: the shapes differ.
    """
    reference, image = _alike(reference, image)
    total = 0.0
    for start, stop in row_strips(reference.shape[0]):
        difference = reference[start:stop].astype(np.float64) - image[start:stop]
        total += float(np.square(difference, out=difference).sum())
    return math.inf if total == 0 else 10 * math.log10(255**2 * reference.size / total)


def psnr_y(reference: np.ndarray, image: np.ndarray) -> float:
    """PSNR of the quantised BT.601 gray images; see `psnr`."""
    return psnr(to_gray(reference, "reference"), to_gray(image))


def ssim(reference: np.ndarray, image: np.ndarray) -> float:
    """SSIM, per channel, then their mean (Wang et al., IEEE TIP 2004).

    Gaussian window of 11 taps, sigma 1.5, population covariance, L = 255, windows inside the image only.

    Args:
      reference: (H, W[, 1 or 3]), 0..255, at least 11x11.
      image: same shape.

    Raises:
      MetricError: the shapes differ, or the images are smaller than the window.
    """
    reference, image = _alike(reference, image)
    if min(reference.shape[:2]) < 11:
        size = f"{reference.shape[1]}x{reference.shape[0]}"
        raise MetricError(f"SSIM is not defined for {size}: its window needs 11x11 pixels")
    if reference.ndim == 2:
        reference, image = reference[..., None], image[..., None]
    rows = reference.shape[0] - 10
    total = 0.0
    for start, stop in row_strips(rows):
        for channel in range(reference.shape[2]):
            x, y = (a[start : stop + 10, :, channel].astype(np.float64) for a in (reference, image))
            total += _ssim_map(x, y).sum()
    return float(total / (rows * (reference.shape[1] - 10) * reference.shape[2]))


def ssim_y(reference: np.ndarray, image: np.ndarray) -> float:
    """SSIM of the quantised BT.601 gray images; see `ssim`."""
    return ssim(to_gray(reference, "reference"), to_gray(image))


def ssim_fusion(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    """Mean of SSIM(IR, F) and SSIM(VI, F) on gray; twice it is the variant `ssim_fusion_sum`.

    Args:
      fused: (H, W[, 1 or 3]), 0..255, at least 11x11.
      infrared: same height and width.
      visible: same height and width.

    Raises:
      MetricError: see `ssim`.
    """
    f = to_gray(fused, "fused")
    return (ssim(to_gray(infrared, "infrared"), f) + ssim(to_gray(visible, "visible"), f)) / 2


def _ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    mean_x, mean_y = correlate_valid(x, _SSIM_TAPS), correlate_valid(y, _SSIM_TAPS)
    # SSIM needs only the sum of the two variances: four filters instead of five.
    variances = correlate_valid(x * x + y * y, _SSIM_TAPS)
    covariance = correlate_valid(x * y, _SSIM_TAPS)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance -= product
    variances -= squares
    return (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))


def _alike(reference: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, image = as_image(reference, "reference"), as_image(image)
    same_size(reference, image)
    if reference.ndim != image.ndim:
        raise MetricError("reference and image differ in their number of channels")
    return reference, image
