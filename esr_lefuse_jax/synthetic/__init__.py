"""Rendered night street pairs: built-in input for the demo, the tests and training without any download.

`render_night_pair` lays out a street from a seed, casts rays into it once, and takes three pictures of it:
the visible one at night, the thermal one, and the visible one by day, which is what a perfect low-light
enhancement would show. numpy alone; the same seed and size give the same arrays.
"""

from typing import NamedTuple

import numpy as np

from esr_lefuse_jax.synthetic.light import Shader, shrink, srgb, thermal_camera, visible_camera
from esr_lefuse_jax.synthetic.street import build_street

__all__ = ["NightPair", "render_night_pair"]

_SUPERSAMPLING = 2
_CAMERA_NOISE = 0.35  # of the raw signal; cameras remove most of it


class NightPair(NamedTuple):
    """A rendered scene; all float32 in [0, 1] and aligned pixel by pixel.

    Attributes:
        visible: (H, W, 3) the night picture: dark, lamps and glow, sensor noise.
        infrared: (H, W) the thermal picture, warm is bright.
        clean: (H, W, 3) the same view well lit and without noise.
    """

    visible: np.ndarray
    infrared: np.ndarray
    clean: np.ndarray


def render_night_pair(
    height: int = 256, width: int = 320, seed: int = 0, *, noise: float = _CAMERA_NOISE
) -> NightPair:
    """Renders an aligned night pair of a street and its well-lit truth.

    Args:
        height: rows, at least 16.
        width: columns, at least 16.
        seed: chooses the street, its people, cars and lamps, and the noise.
        noise: of the visible sensor; 1 is the raw signal of a small sensor at high gain, the default what a camera's own
            processing leaves of it.

    Raises:
        ValueError: the size is too small.
    """
    if height < 16 or width < 16:
        raise ValueError(f"a {width}x{height} night pair: both sides must be at least 16")
    rng = np.random.default_rng([seed, 20240731])
    street = build_street(height * _SUPERSAMPLING, width * _SUPERSAMPLING, rng)
    shader = Shader(street.buffer, street.occluders)
    night = shrink(shader.night(street.lights, street.city, street.haze), _SUPERSAMPLING)
    day = shrink(shader.day(), _SUPERSAMPLING)
    heat = shrink(shader.heat(), _SUPERSAMPLING)
    return NightPair(
        visible=visible_camera(night, rng, exposure=street.exposure, noise=noise),
        infrared=thermal_camera(heat, rng, low=8.0, high=30.0),
        clean=srgb(1 - np.exp(-1.7 * day)),
    )
