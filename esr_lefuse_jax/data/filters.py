"""Image filters in numpy: float32 (H, W) or (H, W, C) in, the same out, edges repeated."""

import numpy as np
from PIL import Image


def box_mean(image: np.ndarray, radius: int) -> np.ndarray:
    """Mean over (2 radius + 1)^2 pixels."""
    for axis in (0, 1):
        length = image.shape[axis]
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius + 1, radius)
        # float64: the sums of a large picture would eat the last digits of float32.
        sums = np.cumsum(np.pad(image, pad, mode="edge"), axis=axis, dtype=np.float64)
        span = 2 * radius + 1
        upper, lower = (slice(span, span + length), slice(length))
        difference = sums[upper] - sums[lower] if axis == 0 else sums[:, upper] - sums[:, lower]
        image = (difference / span).astype(np.float32)
    return image


def local_maximum(image: np.ndarray, radius: int) -> np.ndarray:
    """Maximum over (2 radius + 1)^2 pixels of (H, W), in about 2 log2(radius) passes."""
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.swapaxes(np.pad(image, pad, mode="edge"), 0, axis)
        span, width = 2 * radius + 1, 1
        while width < span:  # windows of `width` pixels become windows of up to twice that
            step = min(width, span - width)
            padded = np.maximum(padded[: len(padded) - step], padded[step:])
            width += step
        image = np.swapaxes(padded, 0, axis)
    return image


def guided_filter(guide: np.ndarray, image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Edge-preserving smoothing of `image` (H, W) that follows the edges of `guide` (H, W).

    He, Sun, Tang, "Guided Image Filtering", IEEE TPAMI 2013. `epsilon` is the variance below which a
    neighbourhood counts as flat.
    """
    mean_guide = box_mean(guide, radius)
    variance = np.maximum(box_mean(guide * guide, radius) - mean_guide * mean_guide, 0)
    if image is guide:
        mean_image, covariance = mean_guide, variance
    else:
        mean_image = box_mean(image, radius)
        covariance = box_mean(guide * image, radius) - mean_guide * mean_image
    slope = covariance / (variance + epsilon)
    offset = mean_image - slope * mean_guide
    return box_mean(slope, radius) * guide + box_mean(offset, radius)


_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def _smooth(image: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (2, 2)
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        total = np.zeros(image.shape, np.float32)
        for start, weight in enumerate(_BINOMIAL):
            window = slice(start, start + length)
            total += np.float32(weight) * (padded[window] if axis == 0 else padded[:, window])
        image = total
    return image


def shrink_by_two(image: np.ndarray) -> np.ndarray:
    """Binomial low-pass and every second pixel: (H, W) to (ceil(H / 2), ceil(W / 2))."""
    return np.ascontiguousarray(_smooth(image)[::2, ::2])


def grow_by_two(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Enlarges `image` to `shape` (of which it is the half), smoothly."""
    doubled = image.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]
    return _smooth(doubled)


def laplacian_pyramid(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Band-pass pictures from fine to coarse, then the low-pass rest.

    Burt, Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Trans. Communications 1983. Their sum
    by `collapse` gives the image back.
    """
    bands = []
    for _ in range(levels):
        if min(image.shape[:2]) < 4:
            break
        smaller = shrink_by_two(image)
        bands.append(image - grow_by_two(smaller, image.shape[:2]))
        image = smaller
    return [*bands, image]


def collapse(pyramid: list[np.ndarray]) -> np.ndarray:
    """The image of a `laplacian_pyramid`."""
    image = pyramid[-1]
    for band in reversed(pyramid[:-1]):
        image = band + grow_by_two(image, band.shape[:2])
    return image


_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}


def resize(image: np.ndarray, height: int, width: int, kind: str = "bicubic") -> np.ndarray:
    """Antialiased resizing of float (H, W) or (H, W, C): bicubic (a = -.5), bilinear or box; not clipped."""
    planes = image[..., None] if image.ndim == 2 else image
    resized = []
    for channel in range(planes.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(planes[..., channel], np.float32))
        resized.append(np.asarray(plane.resize((width, height), _RESAMPLING[kind])))
    return resized[0] if image.ndim == 2 else np.stack(resized, axis=-1)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W) or (H, W, C) with a window of 3 sigma each side."""
    radius = max(1, int(np.ceil(3 * sigma)))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        total = np.zeros(image.shape, np.float32)
        for index, weight in enumerate(weights):
            window = slice(index, index + length)
            total += np.float32(weight) * (padded[window] if axis == 0 else padded[:, window])
        image = total
    return image
