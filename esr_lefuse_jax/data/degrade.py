"""Spoiling pictures the way cameras and codecs do: sensor noise, blur, JPEG blocks.

Pictures are float32 (H, W, 3) in [0, 1]; everything random comes from the generator that is passed in.
"""

import io

import numpy as np
from PIL import Image

from esr_lefuse_jax.data.filters import gaussian_blur, resize


def jpeg(rgb: np.ndarray, quality: int, *, subsampling: int = 2) -> np.ndarray:
    """Through JPEG and back; `subsampling` 2 is 4:2:0, 0 is 4:4:4."""
    levels = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "JPEG", quality=int(quality), subsampling=subsampling)
    return np.asarray(Image.open(stream)).astype(np.float32) / np.float32(255)


def sensor_noise(linear: np.ndarray, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """Adds noise of variance shot * signal + read^2 to linear light, partly spread as by demosaicing."""
    deviation = np.sqrt(np.maximum(linear, 0) * shot + read * read)
    fine = rng.standard_normal(linear.shape, dtype=np.float32)
    coarse = gaussian_blur(rng.standard_normal(linear.shape, dtype=np.float32), 0.8) * 2.2
    return (linear + (0.75 * fine + 0.65 * coarse) * deviation).astype(np.float32)


def downscale_photo(hr: np.ndarray, scale: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """The low-resolution partner of a sharp picture.

    Args:
        hr: (scale * h, scale * w, 3) in [0, 1].
        scale: how many times smaller.
        rng: None gives the plain antialiased bicubic; a generator gives a random camera and codec: blur, one
            of several resampling kernels, noise, JPEG.

    Returns:
        (h, w, 3) float32 in [0, 1].
    """
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    if rng is None:
        return np.clip(resize(hr, height, width), 0, 1)
    if rng.random() < 0.8:
        hr = gaussian_blur(hr, rng.uniform(0.3, 0.55 * scale))
    kind = str(rng.choice(["bicubic", "bilinear", "box"]))
    lr = np.clip(resize(hr, height, width, kind), 0, 1)
    if rng.random() < 0.6:
        lr = sensor_noise(lr, 10 ** rng.uniform(-4.5, -3.0), rng.uniform(0.001, 0.02), rng)
    lr = np.clip(lr, 0, 1)
    if rng.random() < 0.6:
        lr = jpeg(lr, int(rng.integers(45, 96)), subsampling=int(rng.choice([0, 2])))
    return lr
