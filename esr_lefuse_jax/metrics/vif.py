"""VIFp: pixel-domain visual information fidelity."""

import numpy as np

from esr_lefuse_jax.errors import MetricError
from esr_lefuse_jax.metrics.filters import correlate_strips, correlate_valid, gaussian_taps, row_strips
from esr_lefuse_jax.metrics.gray import as_image, same_size, to_gray

_WINDOWS = (17, 9, 5, 3)
_NOISE = 2.0  # variance of the visual noise
_EPSILON = 1e-10
MINIMUM_SIDE = 41  # the smallest side that leaves a 3x3 window at the fourth scale


def vifp(reference: np.ndarray, image: np.ndarray) -> float:
    """VIFp on quantised gray, four scales (Sheikh and Bovik, "Image information and visual quality", 2006).

    Windows N = 17, 9, 5, 3 with sigma N/5, inside the image only. Not symmetric: the reference comes first.
    1 for identical images; above 1 where the image has more contrast than the reference.

    Args:
      reference: (H, W[, 1 or 3]), 0..255, at least 41x41.
      image: same height and width.

    Raises:
      MetricError: the sizes differ, the images are too small, or the reference is flat.
    """
    return _vifp(to_gray(reference, "reference"), to_gray(image))


def vifp_rgb(reference: np.ndarray, image: np.ndarray) -> float:
    """Mean of VIFp over the colour channels, unquantised; see `vifp`."""
    reference, image = as_image(reference, "reference"), as_image(image)
    if reference.ndim == 2 or image.ndim == 2:
        return _vifp(reference, image)
    return float(np.mean([_vifp(reference[..., c], image[..., c]) for c in range(3)]))


def vif_fusion(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    """VIFp(IR, F) + VIFp(VI, F), both on gray.

    Args:
      fused: (H, W[, 1 or 3]), 0..255, at least 41x41.
      infrared: same height and width.
      visible: same height and width.

    Raises:
      MetricError: see `vifp`.
    """
    f = to_gray(fused, "fused")
    return _vifp(to_gray(infrared, "infrared"), f) + _vifp(to_gray(visible, "visible"), f)


def _vifp(reference: np.ndarray, image: np.ndarray) -> float:
    same_size(reference, image)
    height, width = reference.shape
    if min(height, width) < MINIMUM_SIDE:
        raise MetricError(f"VIF is not defined for {width}x{height}: its four scales need 41x41 pixels")
    if reference.min() == reference.max():
        raise MetricError("VIF is not defined: the reference is flat")
    kept = available = 0.0
    for scale, size in enumerate(_WINDOWS):
        taps = gaussian_taps(size, size / 5)
        if scale:
            reference, image = correlate_strips(reference, taps, 2), correlate_strips(image, taps, 2)
        for start, stop in row_strips(reference.shape[0] - size + 1):
            x, y = (a[start : stop + size - 1].astype(np.float64) for a in (reference, image))
            part = _information(x, y, taps)
            kept, available = kept + part[0], available + part[1]
    return float(kept / available)


def _information(x: np.ndarray, y: np.ndarray, taps: np.ndarray) -> tuple[float, float]:
    """Information about the reference x that y keeps, and that x holds, summed over a strip's windows."""
    mean_x, mean_y = correlate_valid(x, taps), correlate_valid(y, taps)
    var_x = np.maximum(correlate_valid(x * x, taps) - mean_x * mean_x, 0)
    var_y = np.maximum(correlate_valid(y * y, taps) - mean_y * mean_y, 0)
    covariance = correlate_valid(x * y, taps) - mean_x * mean_y
    gain = covariance / (var_x + _EPSILON)
    noise = var_y - gain * covariance
    # Windows where one side is flat, or where the contrast is reversed, keep nothing.
    flat_x, flat_y = var_x < _EPSILON, var_y < _EPSILON
    var_x[flat_x] = 0
    gain[flat_x | flat_y] = 0
    noise[flat_y] = 0
    lost = (gain <= 0) & ~flat_y
    noise[lost] = var_y[lost]
    np.maximum(gain, 0, out=gain)
    np.maximum(noise, _EPSILON, out=noise)
    kept = np.log1p(gain * gain * var_x / (noise + _NOISE)).sum()
    return float(kept), float(np.log1p(var_x / _NOISE).sum())
