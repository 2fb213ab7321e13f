"""Classical methods to compare with: five fusions and two enlargements.

Images are uint8 arrays: visible (H, W, 3), infrared (H, W). A fusion works on the visible luminance Y and
keeps the visible chrominance, as the network does. The filters are OpenCV's (extra `eval`), Lanczos is
Pillow's.
"""

from collections.abc import Callable
from types import ModuleType

import numpy as np
from PIL import Image

from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.metrics.resample import bicubic_up

_PYRAMID_LEVELS = 5


def average(y: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Mean of both, (H, W) uint8 in and float32 out, as all fusions here."""
    return (y.astype(np.float32) + infrared) / 2


def maximum(y: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """The brighter of both."""
    return np.maximum(y, infrared).astype(np.float32)


def laplacian(y: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Laplacian pyramid: the stronger detail of each band, mean of the two bases (Burt and Adelson, 1983)."""
    cv2 = _opencv()
    levels = max(1, min(_PYRAMID_LEVELS, int(np.log2(min(y.shape))) - 2))
    bases = [y.astype(np.float32), infrared.astype(np.float32)]
    bands = []
    for _ in range(levels):
        smaller = [cv2.pyrDown(base) for base in bases]
        visible, thermal = (
            base - cv2.pyrUp(small, dstsize=base.shape[::-1])
            for base, small in zip(bases, smaller, strict=True)
        )
        bands.append(np.where(np.abs(visible) >= np.abs(thermal), visible, thermal))
        bases = smaller
    fused = (bases[0] + bases[1]) / 2
    for band in reversed(bands):
        fused = cv2.pyrUp(fused, dstsize=band.shape[::-1]) + band
    return fused


def guided_filter(y: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Base and detail joined by saliency weights that a guided filter smooths (Li, Kang and Hu, TIP 2013)."""
    cv2 = _opencv()
    sources = [y.astype(np.float32), infrared.astype(np.float32)]
    saliency = [
        cv2.GaussianBlur(np.abs(cv2.Laplacian(source, cv2.CV_32F)), (11, 11), 5) for source in sources
    ]
    visible_wins = (saliency[0] >= saliency[1]).astype(np.float32)
    guides = [source / 255 for source in sources]
    fused = np.zeros_like(sources[0])
    # Wide, soft weights for the base; narrow, edge-bound ones for the detail: the paper's parameters.
    for radius, epsilon, detail in ((45, 0.3, False), (7, 1e-6, True)):
        weights = [
            np.clip(cv2.ximgproc.guidedFilter(guide, wins, radius, epsilon), 0, None) + 1e-12
            for guide, wins in zip(guides, (visible_wins, 1 - visible_wins), strict=True)
        ]
        for source, weight in zip(sources, weights, strict=True):
            base = cv2.blur(source, (31, 31))
            fused += weight / (weights[0] + weights[1]) * (source - base if detail else base)
    return fused


def clahe_maximum(y: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """The brighter of IR and contrast-limited equalised Y (clip limit 4, 8x8 tiles)."""
    equalise = _opencv().createCLAHE(clipLimit=4.0, tileGridSize=(8, 8))
    return np.maximum(equalise.apply(np.ascontiguousarray(y)), infrared).astype(np.float32)


def bicubic(image: np.ndarray, scale: int = 4) -> np.ndarray:
    """Bicubic enlargement of a uint8 image as torch and OpenCV compute it, uint8 out."""
    return bicubic_up(image, scale, rounded=True)


def lanczos(image: np.ndarray, scale: int = 4) -> np.ndarray:
    """Lanczos enlargement (three lobes) of a uint8 image, uint8 out."""
    height, width = image.shape[:2]
    larger = Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.LANCZOS)
    return np.asarray(larger)


FUSIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "average": average,
    "max": maximum,
    "laplacian": laplacian,
    "guided_filter": guided_filter,
    "clahe_max": clahe_maximum,
}
ENLARGEMENTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"bicubic": bicubic, "lanczos": lanczos}


def fuse(name: str, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Fuses a pair in colour.

    Args:
      name: one of `FUSIONS`.
      visible: (H, W, 3) uint8.
      infrared: (H, W) uint8.

    Returns:
      (H, W, 3) uint8 RGB.

    Raises:
      ConfigError: unknown name, or OpenCV is not installed.
    """
    if name not in FUSIONS:
        raise ConfigError(f"baseline {name!r}: one of {', '.join(FUSIONS)}")
    cv2 = _opencv()
    ycrcb = cv2.cvtColor(np.ascontiguousarray(visible), cv2.COLOR_RGB2YCrCb)
    ycrcb[..., 0] = np.clip(np.rint(FUSIONS[name](ycrcb[..., 0], infrared)), 0, 255)
    return cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError("the classical baselines use OpenCV: pip install 'esr-lefuse-jax[eval]'") from error
    return cv2
