"""NIQE: distance of an image's local statistics from those of pristine photographs.

Mittal, Soundararajan and Bovik, "Making a Completely Blind Image Quality Analyzer", IEEE Signal Processing
Letters, 2013. The default model is the authors' own (`niqe_model.npz`, see `NIQE_NOTICE.txt`).
"""

import dataclasses
import functools
import importlib.resources
import math
from collections.abc import Iterable, Iterator

import numpy as np

from esr_lefuse_jax.errors import MetricError
from esr_lefuse_jax.metrics.filters import correlate_valid, gaussian_taps
from esr_lefuse_jax.metrics.gray import as_image
from esr_lefuse_jax.metrics.resample import half_size

BLOCK = 96
_TAPS = gaussian_taps(7, 7 / 6)
# MATLAB's rgb2gray: the first row of the inverse of its NTSC matrix, unrounded.
_MATLAB_GRAY = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHARP_ENOUGH = 0.75  # share of the sharpest block that a block must reach to count in `fit`


@dataclasses.dataclass(frozen=True)
class NiqeModel:
    """A multivariate Gaussian over the 36 block features: `mean` (36,) and `covariance` (36, 36)."""

    mean: np.ndarray
    covariance: np.ndarray

    def save(self, path: str) -> None:
        """Writes the model as an .npz file that `load` reads."""
        np.savez(path, mean=self.mean, covariance=self.covariance)

    @classmethod
    def load(cls, path: str) -> "NiqeModel":
        """Reads a model that `save` wrote.

        Raises:
          MetricError: the file is not such a model.
        """
        try:
            with np.load(path) as data:
                model = cls(data["mean"].astype(np.float64), data["covariance"].astype(np.float64))
        except (OSError, KeyError, ValueError) as error:
            raise MetricError(f"{path}: not a NIQE model: {error}") from error
        if model.mean.shape != (36,) or model.covariance.shape != (36, 36):
            raise MetricError(f"{path}: not a NIQE model: mean {model.mean.shape} instead of (36,)")
        return model


@functools.cache
def default_model() -> NiqeModel:
    """The authors' model, fitted to pristine photographs."""
    with importlib.resources.as_file(importlib.resources.files(__package__) / "niqe_model.npz") as path:
        return NiqeModel.load(str(path))


def niqe(image: np.ndarray, model: NiqeModel | None = None) -> float:
    """NIQE, lower is more natural.

    Blocks of 96x96 from the top left; what is left over at the right and bottom does not count.

    Args:
      image: (H, W[, 1 or 3]), 0..255, at least two blocks.
      model: the authors' by default.

    Raises:
      MetricError: fewer than two blocks, or fewer than two that are not flat.
    """
    model = model or default_model()
    features, _ = _block_features(image)
    features_known = features[np.isfinite(features).all(axis=1)]
    if len(features_known) < 2:
        raise MetricError("NIQE is not defined: fewer than two blocks have any texture")
    # A feature of a partly flat block still counts in the mean, as it does in the authors' code.
    difference = model.mean - np.nanmean(features, axis=0)
    covariance = (model.covariance + np.cov(features_known, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def fit(images: Iterable[np.ndarray]) -> NiqeModel:
    """Fits a model to the sharp blocks of pristine images.

    Args:
      images: images as `niqe` takes them.

    Raises:
      MetricError: an image has fewer than two blocks, or the images have too few sharp blocks together.
    """
    kept = []
    for image in images:
        features, sharpness = _block_features(image)
        usable = (sharpness > _SHARP_ENOUGH * sharpness.max()) & np.isfinite(features).all(axis=1)
        kept.append(features[usable])
    features = np.concatenate(kept) if kept else np.empty((0, 36))
    if len(features) <= 36:
        raise MetricError(f"a NIQE model needs more than 36 sharp blocks, these images have {len(features)}")
    return NiqeModel(features.mean(axis=0), np.cov(features, rowvar=False))


def _block_features(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (blocks, 36) at two scales, and sharpness (blocks,), of all whole blocks."""
    gray = _matlab_gray(image)
    height, width = (size // BLOCK * BLOCK for size in gray.shape)
    if height * width < 2 * BLOCK**2:
        size = f"{gray.shape[1]}x{gray.shape[0]}"
        raise MetricError(f"NIQE is not defined for {size}: it needs two blocks of 96x96")
    gray = gray[:height, :width]
    scales, sharpness, flat = [], [], []
    for side in (BLOCK, BLOCK // 2):
        features = []
        for top, normalised, deviation in _normalised_rows(gray, side):
            features.append(_features(normalised))
            if side == BLOCK:
                sharpness.append(deviation.mean(axis=(0, 2)))
                flat.append(np.ptp(gray[top : top + side].reshape(side, -1, side), axis=(0, 2)) == 0)
        scales.append(np.concatenate(features))
        if side == BLOCK:
            gray = half_size(gray)
    result = np.concatenate(scales, axis=1)
    result[np.concatenate(flat)] = np.nan  # what the filters leave there is rounding noise
    return result, np.concatenate(sharpness)


def _matlab_gray(image: np.ndarray) -> np.ndarray:
    image = as_image(image)
    if image.ndim == 2:
        return image
    parts = (image[i : i + 256] @ _MATLAB_GRAY for i in range(0, image.shape[0], 256))
    return np.concatenate([np.floor(part + 0.5).astype(np.uint8) for part in parts])


def _normalised_rows(gray: np.ndarray, side: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields per row of blocks its top, and (side, blocks, side) of normalised value and local deviation."""
    padded = np.pad(gray, 3, mode="edge")
    for top in range(0, gray.shape[0], side):
        window = padded[top : top + side + 6].astype(np.float64)
        mean = correlate_valid(window, _TAPS)
        deviation = np.sqrt(np.abs(correlate_valid(window * window, _TAPS) - mean * mean))
        normalised = (window[3:-3, 3:-3] - mean) / (deviation + 1)
        yield top, normalised.reshape(side, -1, side), deviation.reshape(side, -1, side)


def _features(x: np.ndarray) -> np.ndarray:
    """18 features of each block of (side, blocks, side): the values, then products with four neighbours."""
    alpha, left, right, _ = _fit_asymmetric(x)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right, spread = _fit_asymmetric(x * np.roll(x, shift, axis=(0, 2)))
        features += [alpha, (right - left) * spread, left, right]
    return np.stack(features, axis=1)


def _fit_asymmetric(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Moment fit of an asymmetric generalised Gaussian to each block of (side, blocks, side).

    Returns:
      Shape, left scale, right scale and Gamma(2/shape) / Gamma(1/shape), (blocks,) each; NaN where a block
      has no negative or no positive value.
    """
    shapes, ratios, scales, means = _gamma_table()
    negative = np.minimum(x, 0)
    squares, squares_left = np.einsum("ibj,ibj->b", x, x), np.einsum("ibj,ibj->b", negative, negative)
    size = x.shape[0] * x.shape[2]
    magnitude = (x.sum(axis=(0, 2)) - 2 * negative.sum(axis=(0, 2))) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.sqrt(squares_left / (x < 0).sum(axis=(0, 2)))
        right = np.sqrt((squares - squares_left) / (x > 0).sum(axis=(0, 2)))
        lean = left / right
        ratio = magnitude**2 / (squares / size)
        wanted = ratio * (lean**3 + 1) * (lean + 1) / (lean**2 + 1) ** 2
    known = np.isfinite(wanted)
    index = np.argmin((ratios - np.where(known, wanted, 0)[:, None]) ** 2, axis=1)
    nan = np.where(known, 0.0, np.nan)
    return shapes[index] + nan, left * scales[index] + nan, right * scales[index] + nan, means[index] + nan


@functools.cache
def _gamma_table() -> tuple[np.ndarray, ...]:
    """Over shapes .2, .201, ..., 10: moment ratio, scale over deviation, and mean over scale."""
    shapes = np.arange(200, 10001) / 1000
    one, two, three = (np.array([math.lgamma(k / shape) for shape in shapes]) for k in (1, 2, 3))
    return shapes, np.exp(2 * two - one - three), np.exp((one - three) / 2), np.exp(two - one)
