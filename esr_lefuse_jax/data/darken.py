"""Turning well-lit frames into nights, so that the frame itself is the truth an enhancement should reach.

In linear light: a field of lamp pools over faint ambient light, a vignette, the colour of the lamps, less
exposure, shot and read noise; then a steeper tone curve and the blocks of a codec.
"""

import numpy as np

from esr_lefuse_jax.data.degrade import jpeg, sensor_noise
from esr_lefuse_jax.data.filters import gaussian_blur

# Frames darker than this on average are nights already.
WELL_LIT = 0.25

# Sodium, warm LED, neutral LED, mercury, moonlit: linear gains of red, green, blue.
_CASTS = np.array(
    [[1.15, 0.80, 0.42], [1.10, 0.92, 0.70], [1, 1, 1], [0.85, 1.05, 1.0], [0.8, 0.95, 1.25]], np.float32
)
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_GAMMA = 2.2
# Mean luminance of the nights (LLVIP and MSRS at night: .13), and the least that exposure is reduced.
_DARKEST, _BRIGHTEST, _LARGEST_EXPOSURE = 0.06, 0.25, 0.5


def lamp_field(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Share of the light that reaches each pixel (H, W): ambience, pools of lamps, a vignette; up to 1."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    field = np.full((height, width), rng.uniform(0.12, 0.7), np.float32)
    # A gradient: one side of a street is darker than the other.
    angle = rng.uniform(0, 2 * np.pi)
    field *= 1 + rng.uniform(0, 0.5) * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    for _ in range(int(rng.integers(0, 5))):
        centre_x, centre_y = rng.uniform(-0.3, 1.3, 2)
        wide, high = 10 ** rng.uniform(-1.1, -0.2, 2)
        square = ((x - centre_x) / wide) ** 2 + ((y - centre_y) / high) ** 2
        field += rng.uniform(0.2, 1.0) / (1 + square)  # light falls off with the square of the distance
    corners = (x - 0.5) ** 2 + (y - 0.5) ** 2
    field *= 1 - rng.uniform(0, 0.6) * corners
    return np.clip(field / max(1.0, float(field.max())), 0, 1)


def darken(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A night picture of a well-lit one, aligned with it; the same generator state gives the same picture.

    Args:
        rgb: (H, W, 3) float32 in [0, 1], sRGB.
        rng: source of everything random.

    Returns:
        (H, W, 3) float32 in [0, 1].
    """
    height, width = rgb.shape[:2]
    linear = np.clip(rgb, 0, 1).astype(np.float32) ** np.float32(_GAMMA)
    cast = _CASTS[int(rng.integers(len(_CASTS)))]
    cast = 1 + rng.uniform(0, 1) * (cast - 1)
    light = linear * cast * lamp_field(height, width, rng)[..., None]
    wanted = np.exp(rng.uniform(np.log(_DARKEST), np.log(_BRIGHTEST)))
    mean = float(np.mean(np.maximum(light @ _LUMA, 1e-6) ** (1 / _GAMMA)))
    light *= np.float32(min((wanted / mean) ** _GAMMA, _LARGEST_EXPOSURE))
    # Cones see little colour in the dark and cameras less: chroma fades with the light.
    gray = light @ _LUMA
    faded = rng.uniform(0, 0.6) * np.exp(-gray / 0.02)
    light += faded[..., None] * (gray[..., None] * cast - light)
    light = sensor_noise(light, 10 ** rng.uniform(-4.2, -2.7), rng.uniform(0.0003, 0.003), rng)
    dark = np.clip(light, 0, 1) ** np.float32(rng.uniform(1.0, 1.25) / _GAMMA)
    if rng.random() < 0.3:
        dark = gaussian_blur(dark, rng.uniform(0.4, 0.8))  # in-camera noise reduction
    if rng.random() < 0.75:
        dark = jpeg(dark, int(rng.integers(28, 92)))
    return np.clip(dark, 0, 1).astype(np.float32)
