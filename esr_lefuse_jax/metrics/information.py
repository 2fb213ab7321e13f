"""What a fused image carries over from its two sources: MI, SCD and CC."""

import numpy as np

from esr_lefuse_jax.errors import MetricError
from esr_lefuse_jax.metrics.filters import row_strips
from esr_lefuse_jax.metrics.gray import same_size, to_gray


def _mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """MI of two uint8 images in bits, from their 256x256 joint histogram."""
    joint = np.zeros(65536, np.int64)
    for start, stop in row_strips(a.shape[0]):
        joint += np.bincount((a[start:stop].astype(np.intp) * 256 + b[start:stop]).ravel(), minlength=65536)
    p = joint.reshape(256, 256) / a.size
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    seen = p > 0
    return float((p[seen] * np.log2(p[seen] / independent[seen])).sum())


def mutual_information(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    """MI(F, IR) + MI(F, VI) in bits (Qu, Zhang and Yan, 2002); 0 for a flat fused image.

    Args:
      fused: (H, W[, 1 or 3]), 0..255.
      infrared: same height and width.
      visible: same height and width.

    Raises:
      MetricError: the sizes differ.
    """
    f, ir, vi = _grays(fused, infrared, visible)
    return _mutual_information(f, ir) + _mutual_information(f, vi)


def sum_of_correlations_of_differences(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    """SCD: corr(F - VI, IR) + corr(F - IR, VI) (Aslantas and Bendes, 2015).

    Args:
      fused: (H, W[, 1 or 3]), 0..255.
      infrared: same height and width.
      visible: same height and width.

    Raises:
      MetricError: the sizes differ, or a source or a difference image is flat.
    """
    f, ir, vi = (x.astype(np.int16) for x in _grays(fused, infrared, visible))
    return _pearson(f - vi, ir, "SCD", "F - VI", "IR") + _pearson(f - ir, vi, "SCD", "F - IR", "VI")


def correlation_coefficient(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    """CC: mean of the Pearson correlations of the fused image with IR and with VI.

    Args:
      fused: (H, W[, 1 or 3]), 0..255.
      infrared: same height and width.
      visible: same height and width.

    Raises:
      MetricError: the sizes differ, or one of the images is flat.
    """
    f, ir, vi = _grays(fused, infrared, visible)
    return (_pearson(f, ir, "CC", "F", "IR") + _pearson(f, vi, "CC", "F", "VI")) / 2


def _pearson(a: np.ndarray, b: np.ndarray, metric: str, a_name: str, b_name: str) -> float:
    """Pearson correlation from exact integer moments: a flat image is recognised without a threshold."""
    sums = [0] * 5
    for start, stop in row_strips(a.shape[0]):
        x, y = (image[start:stop].astype(np.int32).ravel() for image in (a, b))
        for i, product in enumerate((x, y, x * x, y * y, x * y)):
            sums[i] += int(product.sum(dtype=np.int64))
    n, (sum_a, sum_b, sum_aa, sum_bb, sum_ab) = a.size, sums
    spread_a, spread_b = n * sum_aa - sum_a**2, n * sum_bb - sum_b**2
    for spread, name in ((spread_a, a_name), (spread_b, b_name)):
        if spread == 0:
            raise MetricError(f"{metric} is not defined: {name} is flat")
    return (n * sum_ab - sum_a * sum_b) / (float(spread_a) * float(spread_b)) ** 0.5


def _grays(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, ...]:
    grays = to_gray(fused, "fused"), to_gray(infrared, "infrared"), to_gray(visible, "visible")
    same_size(*grays)
    return grays
