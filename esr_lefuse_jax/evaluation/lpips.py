"""LPIPS: distance of two images in the features of AlexNet or VGG16 (Zhang et al., CVPR 2018, version 0.1).

Runs in JAX, in strips of rows with a halo wider than the reach of any feature: large images need no more
memory than small ones, and the result is that of the whole image.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.errors import MetricError
from esr_lefuse_jax.evaluation.lpips_weights import load_lpips
from esr_lefuse_jax.metrics.gray import as_image, same_size

Net = Literal["alexnet", "vgg16"]

# Channel normalisation for images in [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
# (stride, padding) of each convolution, and (window, stride) of the max pooling before it, if any.
_ALEXNET = (((4, 2), None), ((1, 2), (3, 2)), ((1, 1), (3, 2)), ((1, 1), None), ((1, 1), None))
_VGG16 = tuple(((1, 1), (2, 2) if index in (2, 4, 7, 10) else None) for index in range(13))
_LAYERS = {"alexnet": _ALEXNET, "vgg16": _VGG16}
# After which convolutions features are compared, and how many pixels one of their rows stands for.
_COMPARED = {
    "alexnet": {0: 4, 1: 8, 2: 16, 3: 16, 4: 16},
    "vgg16": {1: 1, 3: 2, 6: 4, 9: 8, 12: 16},
}
_MINIMUM_SIDE = 32
_HALO = 128  # more than the 96 pixels that the deepest features reach beyond their own row, and whole strides
_STRIP_PIXELS = 1 << 20


def lpips(reference: np.ndarray, image: np.ndarray, net: Net = "alexnet") -> float:
    """LPIPS, 0 for identical images; lower is closer.

    Args:
      reference: (H, W[, 1 or 3]), 0..255, at least 32x32.
      image: same height and width.
      net: whose features, with the linear heads of version 0.1.

    Raises:
      MetricError: the sizes differ, or the images are too small.
      CheckpointError: the weights were not imported yet.
    """
    a, b = (_colour(as_image(x, name)) for x, name in ((reference, "reference"), (image, "image")))
    same_size(a, b)
    height, width = a.shape[:2]
    if min(height, width) < _MINIMUM_SIDE:
        raise MetricError(f"LPIPS is not defined for {width}x{height}: it needs 32x32 pixels")
    weights = load_lpips(net)
    rows = max(_HALO, _STRIP_PIXELS // width // 16 * 16)
    totals = np.zeros((len(_COMPARED[net]), 2))
    for start in range(0, height, rows):
        first, last = max(start - _HALO, 0), min(start + rows + _HALO, height)
        end = start + rows - first if start + rows < height else None
        strips = (jnp.asarray(x[first:last], jnp.float32)[None] for x in (a, b))
        totals += np.asarray(_distances(weights, *strips, net, start - first, end), np.float64)
    return float((totals[:, 0] / totals[:, 1]).sum())


@functools.partial(jax.jit, static_argnames=("net", "start", "end"))
def _distances(
    weights: dict[str, jax.Array], a: jax.Array, b: jax.Array, net: Net, start: int, end: int | None
) -> jax.Array:
    """(sum, count) of the weighted feature distances of each level over pixel rows start..end of a strip."""
    sums = []
    levels = zip(_features(weights, a, net), _features(weights, b, net), strict=True)
    for level, (fa, fb) in enumerate(levels):
        pixels = list(_COMPARED[net].values())[level]
        difference = (_unit(fa) - _unit(fb)) ** 2 @ weights[f"head{level}"]
        kept = difference[:, start // pixels : None if end is None else end // pixels]
        sums.append(jnp.stack([kept.sum(), jnp.float32(kept.size)]))
    return jnp.stack(sums)


def _features(weights: dict[str, jax.Array], x: jax.Array, net: Net) -> list[jax.Array]:
    x = (x / 127.5 - 1 - _SHIFT) / _SCALE
    found = []
    for index, ((stride, padding), pool) in enumerate(_LAYERS[net]):
        if pool:
            window, step = pool
            x = jax.lax.reduce_window(
                x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, step, step, 1), "VALID"
            )
        x = jax.lax.conv_general_dilated(
            x,
            weights[f"conv{index}/kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + weights[f"conv{index}/bias"])
        if index in _COMPARED[net]:
            found.append(x)
    return found


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) + 1e-10)


def _colour(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
