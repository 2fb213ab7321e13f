"""The objectives of the stages, as named terms and their weighted sum."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from esr_lefuse_jax.losses import perceptual, terms

Terms = dict[str, jax.Array]


def weighted_sum(values: Terms, weights: Mapping[str, float]) -> jax.Array:
    """Sum over the named terms of weight times value, (N,); a name without a weight does not count."""
    total = jnp.zeros_like(next(iter(values.values())))
    for name, value in values.items():
        if weights.get(name, 0):
            total = total + weights[name] * value
    return total


def fusion_objective(
    fused: jax.Array,
    batch: Mapping[str, jax.Array],
    weights: Mapping[str, float],
    extract: perceptual.FeatureFn | None = None,
    mask: jax.Array | None = None,
) -> Terms:
    """Terms of the fusion objective; there is no ground truth, the targets come from the inputs.

    * `l1`: distance to the merged target T.
    * `gradient`: L1 between |grad F| and the larger of |grad E| and |grad IR|, less where the scene is dark
      and smooth, for there the gradient of E is noise.
    * `ssim`: 1 - SSIM, shared between E and the infrared by `infrared_share`.
    * `perceptual`: VGG16 distance, shared in the same way.
    * `smooth`: total variation in dark smooth regions, against noise and codec blocks.

    Args:
        fused: luminance F (N, H, W, 1) in [0, 1].
        batch: `target` T, `enhanced` E, `infrared` and `luminance` (of the visible image as it came), each
            (N, H, W, 1).
        weights: weight of each term by name, and `infrared_share`, `dark_level`, `activity_level`.
        extract: VGG16 features; needed only when `perceptual` has a weight.
        mask: (N, H, W, 1), ones where a pixel counts.

    Returns:
        Name to (N,) values, unweighted; only terms that have a weight.
    """
    target, enhanced, infrared = batch["target"], batch["enhanced"], batch["infrared"]
    share = weights["infrared_share"]
    values: Terms = {"l1": terms.l1(fused, target, mask)}
    blank = terms.dark_and_smooth(
        batch["luminance"], infrared, weights["dark_level"], weights["activity_level"]
    )
    if weights["gradient"]:
        wanted = jnp.maximum(terms.sobel_magnitude(enhanced), terms.sobel_magnitude(infrared))
        difference = jnp.abs(terms.sobel_magnitude(fused) - wanted)
        values["gradient"] = terms.masked_mean(difference * (1 - blank), mask)
    if weights["ssim"]:
        to_enhanced, to_infrared = terms.ssim(fused, enhanced, mask), terms.ssim(fused, infrared, mask)
        values["ssim"] = 1 - (1 - share) * to_enhanced - share * to_infrared
    if weights["perceptual"]:
        assert extract is not None, "a perceptual weight needs VGG16 features"
        (of_fused,) = perceptual.features_of([fused], extract)
        of_sources = jax.lax.stop_gradient(perceptual.features_of([enhanced, infrared], extract))
        to_enhanced, to_infrared = (perceptual.distance(of_fused, source, mask) for source in of_sources)
        values["perceptual"] = (1 - share) * to_enhanced + share * to_infrared
    if weights["smooth"]:
        values["smooth"] = terms.total_variation(fused, blank, mask)
    return values


def super_resolution_objective(
    output: jax.Array,
    reference: jax.Array,
    weights: Mapping[str, float],
    extract: perceptual.FeatureFn | None = None,
    mask: jax.Array | None = None,
) -> Terms:
    """Terms of the hybrid objective of ESR-LEFuse: `l1`, `perceptual`, `color` (published: 1, .3 and .15).

    Args:
        output: (N, H, W, 3) in [0, 1].
        reference: same shape.
        weights: weight of each term by name.
        extract: VGG16 features; needed only when `perceptual` has a weight.
        mask: (N, H, W, 1), ones where a pixel counts.

    Returns:
        Name to (N,) values, unweighted; only terms that have a weight.
    """
    values: Terms = {"l1": terms.l1(output, reference, mask)}
    if weights["perceptual"]:
        assert extract is not None, "a perceptual weight needs VGG16 features"
        (ours,) = perceptual.features_of([output], extract)
        (wanted,) = jax.lax.stop_gradient(perceptual.features_of([reference], extract))
        values["perceptual"] = perceptual.distance(ours, wanted, mask)
    if weights["color"]:
        values["color"] = terms.color(output, reference, mask)
    return values
