"""Resizing as the original model does it; `jax.image.resize` uses another cubic kernel (a = -0.5)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_A = -0.75  # the cubic coefficient of PyTorch and OpenCV


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel (IEEE TASSP 1981) with a = -0.75."""
    d = np.abs(distance)
    near = ((_A + 2) * d - (_A + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * _A - 4 * _A
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@functools.cache
def _phases(scale: int) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """For each of the `scale` output phases: offset of the first of four taps, and the taps' weights."""
    phases = []
    for phase in range(scale):
        source = (phase + 0.5) / scale - 0.5
        first = int(np.floor(source)) - 1
        weights = _cubic(source - np.arange(first, first + 4))
        phases.append((first, tuple(float(w) for w in weights)))
    return tuple(phases)


def _enlarge_axis(x: jax.Array, scale: int, axis: int) -> jax.Array:
    size = x.shape[axis]
    margin = [(0, 0)] * x.ndim
    margin[axis] = (2, 2)
    padded = jnp.pad(
        x, margin, mode="edge"
    )  # borders replicated: exactly the clamped indices of the definition
    phases = []
    for first, weights in _phases(scale):
        taps = [
            jax.lax.slice_in_dim(padded, 2 + first + k, 2 + first + k + size, axis=axis) * w
            for k, w in enumerate(weights)
        ]
        phases.append(taps[0] + taps[1] + taps[2] + taps[3])
    stacked = jnp.stack(phases, axis=axis + 1)
    return stacked.reshape(*x.shape[:axis], size * scale, *x.shape[axis + 1 :])


def bicubic(x: jax.Array, scale: int) -> jax.Array:
    """Enlarges (N, H, W, C) by an integer factor, bicubic with a = -0.75, half-pixel centres, clamped borders.

    Equals `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`; the result may leave the input's
    range.
    """
    return _enlarge_axis(_enlarge_axis(x, scale, 1), scale, 2)


def pixel_shuffle(x: jax.Array, scale: int) -> jax.Array:
    """Rearranges (N, H, W, C*r*r) into (N, H*r, W*r, C); channel c*r*r + dy*r + dx goes to offset (dy, dx).

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network", CVPR 2016.
    """
    n, h, w, channels = x.shape
    c = channels // scale**2
    x = x.reshape(n, h, w, c, scale, scale).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, h * scale, w * scale, c)
