"""Image quality on the host: values 0..255, float64, NumPy only.

The contract, once: an image is (H, W), (H, W, 1) or (H, W, 3), any real dtype, values 0..255. A function
returns one float per image and raises `MetricError`, saying why, where the metric is not defined: never NaN.
Gray metrics see `round(.299 R + .587 G + .114 B)`, ties up, quantised first. Filters run in row strips: a
5120x4096 image takes seconds and little memory beyond itself. `registry` has every metric by its name.
"""

from esr_lefuse_jax.metrics.edges import qabf
from esr_lefuse_jax.metrics.fidelity import psnr, psnr_y, ssim, ssim_fusion, ssim_y
from esr_lefuse_jax.metrics.gray import to_gray
from esr_lefuse_jax.metrics.information import (
    correlation_coefficient,
    mutual_information,
    sum_of_correlations_of_differences,
)
from esr_lefuse_jax.metrics.naturalness import niqe
from esr_lefuse_jax.metrics.registry import FUSION_METRICS, METRICS, fusion_metrics, measure
from esr_lefuse_jax.metrics.resample import bicubic_up, box_down, lr_consistency
from esr_lefuse_jax.metrics.statistics import (
    average_gradient,
    average_gradient_forward,
    entropy,
    spatial_frequency,
    standard_deviation,
)
from esr_lefuse_jax.metrics.vif import vif_fusion, vifp, vifp_rgb

__all__ = [
    "FUSION_METRICS",
    "METRICS",
    "average_gradient",
    "average_gradient_forward",
    "bicubic_up",
    "box_down",
    "correlation_coefficient",
    "entropy",
    "fusion_metrics",
    "lr_consistency",
    "measure",
    "mutual_information",
    "niqe",
    "psnr",
    "psnr_y",
    "qabf",
    "spatial_frequency",
    "ssim",
    "ssim_fusion",
    "ssim_y",
    "standard_deviation",
    "sum_of_correlations_of_differences",
    "to_gray",
    "vif_fusion",
    "vifp",
    "vifp_rgb",
]
