"""Every metric by its name, with what it needs, its convention, and which direction is better."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from esr_lefuse_jax.errors import ConfigError, MetricError
from esr_lefuse_jax.metrics import edges, fidelity, information, naturalness, resample, statistics, vif

Needs = Literal["image", "sources", "reference", "lr"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      name: the key in reports and on the command line.
      title: the symbol in tables.
      needs: "image" for `compute(image)`, "sources" for `compute(fused, infrared, visible)`,
        "reference" for `compute(reference, image)`, "lr" for `compute(image, lr)`.
      compute: returns a float or raises `MetricError` where the metric is not defined.
      convention: the definition in a few words, for reports.
      higher_is_better: the direction the field reads as better.
      digits: decimals in printed tables.
    """

    name: str
    title: str
    needs: Needs
    compute: Callable[..., float]
    convention: str
    higher_is_better: bool = True
    digits: int = 3


def _sf_hw(image: np.ndarray) -> float:
    return statistics.spatial_frequency(image, over_pixels=True)


def _ag_nohalf(image: np.ndarray) -> float:
    return statistics.average_gradient_forward(image, half=False)


def _ssim_sum(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    return 2 * fidelity.ssim_fusion(fused, infrared, visible)


# name, title, function, convention, and what is not the default.
_Row = tuple[str, str, Callable[..., float], str, dict[str, Any]]
_IMAGE: tuple[_Row, ...] = (
    ("en", "EN", statistics.entropy, "entropy in bits, 256 integer bins", {}),
    ("ag", "AG", statistics.average_gradient, "sqrt((gx^2+gy^2)/2), np.gradient, over H*W", {}),
    ("sd", "SD", statistics.standard_deviation, "population standard deviation", {"digits": 2}),
    ("sf", "SF", statistics.spatial_frequency, "each mean over its own differences", {"digits": 2}),
    ("niqe", "NIQE", naturalness.niqe, "UT Austin model, 96x96 blocks", {"higher_is_better": False}),
    ("sf_hw", "SF (H*W)", _sf_hw, "both sums over H*W", {"digits": 2}),
    ("ag_forward", "AG (fwd)", statistics.average_gradient_forward, "forward, over (H-1)(W-1)", {}),
    ("ag_forward_nohalf", "AG (fwd, no 1/2)", _ag_nohalf, "forward, over (H-1)(W-1), not halved", {}),
)
_SOURCES: tuple[_Row, ...] = (
    ("mi", "MI", information.mutual_information, "MI(F,IR) + MI(F,VI) in bits, 256x256 bins", {}),
    ("scd", "SCD", information.sum_of_correlations_of_differences, "corr(F-VI,IR) + corr(F-IR,VI)", {}),
    ("cc", "CC", information.correlation_coefficient, "mean of corr(IR,F) and corr(VI,F)", {}),
    ("qabf", "Qabf", edges.qabf, "Sobel, zero-padded, orientation not wrapped", {}),
    ("vif_fusion", "VIF", vif.vif_fusion, "VIFp(IR,F) + VIFp(VI,F) on gray", {}),
    ("ssim_fusion", "SSIM", fidelity.ssim_fusion, "mean of SSIM(IR,F), SSIM(VI,F) on gray", {}),
    ("ssim_fusion_sum", "SSIM (sum)", _ssim_sum, "SSIM(IR,F) + SSIM(VI,F) on gray", {}),
)
_REFERENCE: tuple[_Row, ...] = (
    ("psnr", "PSNR", fidelity.psnr, "RGB, dB", {"digits": 2}),
    ("psnr_y", "PSNR-Y", fidelity.psnr_y, "quantised BT.601 gray, dB", {"digits": 2}),
    ("ssim", "SSIM", fidelity.ssim, "per RGB channel, Gaussian 11, sigma 1.5", {"digits": 4}),
    ("ssim_y", "SSIM-Y", fidelity.ssim_y, "quantised BT.601 gray, Gaussian 11, sigma 1.5", {"digits": 4}),
    ("vif", "VIF", vif.vifp, "VIFp(reference, image) on gray", {}),
    ("vif_rgb", "VIF (RGB)", vif.vifp_rgb, "mean of VIFp(reference, image) over RGB", {}),
)
_LR: tuple[_Row, ...] = (
    ("lr_consistency", "LR-cons.", resample.lr_consistency, "PSNR(box(SR), LR), RGB, dB", {"digits": 2}),
)
_GROUPS: tuple[tuple[Needs, tuple[_Row, ...]], ...] = (
    ("image", _IMAGE),
    ("sources", _SOURCES),
    ("reference", _REFERENCE),
    ("lr", _LR),
)
METRICS: dict[str, Metric] = {
    name: Metric(name, title, needs, compute, convention, **options)
    for needs, group in _GROUPS
    for name, title, compute, convention, options in group
}
IMAGE_METRICS = ("en", "ag", "sd", "sf", "niqe")
FUSION_METRICS = (*IMAGE_METRICS, "mi", "scd", "cc", "qabf", "vif_fusion", "ssim_fusion")
REFERENCE_METRICS = ("psnr", "ssim", "vif")


def measure(metric: Metric, *images: np.ndarray) -> tuple[float | None, str | None]:
    """Computes one metric without ever giving NaN or infinity.

    Returns:
      (value, None), or (None, why it is not defined).
    """
    try:
        value = metric.compute(*images)
    except MetricError as error:
        return None, str(error)
    if math.isinf(value):
        return None, f"{metric.title} is infinite: the images are identical"
    if math.isnan(value):
        return None, f"{metric.title} is not a number for this image"
    return value, None


def fusion_metrics(
    fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray, names: Iterable[str] = FUSION_METRICS
) -> dict[str, float | None]:
    """Measures a fused image, alone and against its two sources.

    Args:
      fused: (H, W[, 1 or 3]), 0..255.
      infrared: same height and width.
      visible: same height and width.
      names: metrics that need the image or the sources.

    Returns:
      Value by name; None where a metric is not defined (a flat image, an image too small, ...).

    Raises:
      ConfigError: an unknown name, or a metric that needs something else than the sources.
    """
    values = {}
    for name in names:
        metric = METRICS.get(name)
        if metric is None or metric.needs not in ("image", "sources"):
            known = [m.name for m in METRICS.values() if m.needs in ("image", "sources")]
            raise ConfigError(f"metric {name!r}: not one of {', '.join(known)}")
        images = (fused,) if metric.needs == "image" else (fused, infrared, visible)
        values[name], _ = measure(metric, *images)
    return values
