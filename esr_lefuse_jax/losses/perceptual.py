"""Perceptual loss on VGG16 features, as the original training uses it.

Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016; here the L1
distance after relu1_2, relu2_2, relu3_3 and relu4_3 with weights 1 to 4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from esr_lefuse_jax.losses.terms import masked_mean

LAYER_WEIGHTS = (1.0, 2.0, 3.0, 4.0)
MIN_SIZE = 8

# RGB in [0, 1] (N, H, W, 3) to the four feature maps, at strides 1, 2, 4 and 8.
FeatureFn = Callable[[jax.Array], tuple[jax.Array, ...]]


def features_of(images: list[jax.Array], extract: FeatureFn) -> list[list[jax.Array]]:
    """Features of several image batches of one shape, in one pass; gray images are repeated to RGB."""
    stacked = jnp.concatenate([jnp.broadcast_to(x, (*x.shape[:3], 3)) for x in images])
    wide = jnp.promote_types(stacked.dtype, jnp.float32)
    layers = [jnp.split(layer.astype(wide), len(images)) for layer in extract(stacked)]
    return [[layer[i] for layer in layers] for i in range(len(images))]


def distance_terms(a: list[jax.Array], b: list[jax.Array], mask: jax.Array | None = None) -> jax.Array:
    """Weighted mean absolute difference of each layer, (N, 4).

    With a mask only those features count whose pixels are all inside it.
    """
    terms = []
    for weight, fa, fb in zip(LAYER_WEIGHTS, a, b, strict=True):
        inside = None
        if mask is not None:
            h, w = fa.shape[1:3]
            sy, sx = mask.shape[1] // h, mask.shape[2] // w
            cells = mask[:, : h * sy, : w * sx].reshape(mask.shape[0], h, sy, w, sx, 1)
            inside = jnp.min(cells, axis=(2, 4))
        terms.append(weight * masked_mean(jnp.abs(fa - fb), inside))
    return jnp.stack(terms, axis=-1)


def distance(a: list[jax.Array], b: list[jax.Array], mask: jax.Array | None = None) -> jax.Array:
    """Sum of `distance_terms` over the layers, (N,)."""
    return jnp.sum(distance_terms(a, b, mask), axis=-1)
