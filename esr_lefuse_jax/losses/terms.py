"""The terms of the objectives, each by itself.

No term takes a square root or divides by a local statistic without a floor: gradients are finite on flat
images.
"""

import jax
import jax.numpy as jnp
import numpy as np

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def totals(values: jax.Array, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Sum and count of per-example values.

    Args:
        values: (N,).
        valid: (N,) ones for real examples, zeros for padding; None when all are real.

    Returns:
        Two scalars; a mean over several batches is the sum of sums over the sum of counts.
    """
    valid = jnp.ones_like(values) if valid is None else valid.astype(values.dtype)
    # where, not a product: a padded example may hold NaN.
    return jnp.sum(jnp.where(valid > 0, values, 0)), jnp.sum(valid)


def masked_mean(values: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean of (N, H, W, C) over pixels and channels, (N,); with a mask (N, H, W, 1) over its ones only."""
    if mask is None:
        return jnp.mean(values, axis=(1, 2, 3))
    weights = jnp.broadcast_to(mask, values.shape)
    kept = jnp.where(weights > 0, values * weights, 0)
    return jnp.sum(kept, axis=(1, 2, 3)) / jnp.maximum(jnp.sum(weights, axis=(1, 2, 3)), 1e-6)


def l1(a: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean absolute difference, (N,)."""
    return masked_mean(jnp.abs(a - b), mask)


def color(a: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Squared error of each channel, averaged over the channels, (N,): the colour term of ESR-LEFuse."""
    per_channel = [
        masked_mean(jnp.square(a[..., c : c + 1] - b[..., c : c + 1]), mask) for c in range(a.shape[-1])
    ]
    return jnp.mean(jnp.stack(per_channel), axis=0)


def psnr(a: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Peak signal-to-noise ratio in dB for a peak of 1, (N,); at most 100 dB. A metric, not a loss."""
    return -10 * jnp.log10(jnp.maximum(masked_mean(jnp.square(a - b), mask), 1e-10))


def sobel_magnitude(x: jax.Array) -> jax.Array:
    """|gx| + |gy| by Sobel's operators / 8 (a derivative per pixel), borders replicated; same shape."""
    p = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    across = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    gx = across[:, :, 2:] - across[:, :, :-2]
    down = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
    gy = down[:, 2:] - down[:, :-2]
    return (jnp.abs(gx) + jnp.abs(gy)) / 8


def _window(size: int, sigma: float | None) -> np.ndarray:
    if sigma is None:
        return np.full(size, 1 / size, np.float32)
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return (weights / weights.sum()).astype(np.float32)


def _filter(x: jax.Array, window: np.ndarray, padding: int = 0) -> jax.Array:
    """Filters (N, H, W, C) by a separable window: valid positions after replicating edges by `padding`."""
    n, _, _, c = x.shape
    x = jnp.moveaxis(x, -1, 1).reshape(n * c, *x.shape[1:3], 1)  # one channel at a time: a plain convolution
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge")
    for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
        kernel = jnp.asarray(window.reshape(shape), x.dtype)
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return jnp.moveaxis(x.reshape(n, c, *x.shape[1:3]), 1, -1)


def box_mean(x: jax.Array, size: int) -> jax.Array:
    """Local mean over size x size pixels (odd), borders replicated; same shape."""
    return _filter(x, _window(size, None), size // 2)


def gaussian_mean(x: jax.Array, size: int, sigma: float) -> jax.Array:
    """Gaussian blur with a window of `size` pixels (odd), borders replicated; same shape."""
    return _filter(x, _window(size, sigma), size // 2)


def ssim(a: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Structural similarity (Wang et al., IEEE TIP 2004), (N,).

    Gaussian window of 11 pixels, sigma 1.5, population covariance, data range 1; only windows that lie inside
    the image (and inside the mask) count. Images smaller than the window are extended by their border pixels.
    """
    short = SSIM_WINDOW - min(a.shape[1:3])
    if short > 0:
        margin = ((0, 0), ((short + 1) // 2,) * 2, ((short + 1) // 2,) * 2, (0, 0))
        a, b = jnp.pad(a, margin, mode="edge"), jnp.pad(b, margin, mode="edge")
        mask = None if mask is None else jnp.pad(mask, margin, mode="edge")
    c1, c2 = 0.01**2, 0.03**2
    moments = _filter(jnp.concatenate([a, b, a * a, b * b, a * b]), _window(SSIM_WINDOW, SSIM_SIGMA))
    mean_a, mean_b, aa, bb, ab = jnp.split(moments, 5)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    if mask is not None:
        inside = jax.lax.reduce_window(
            mask, jnp.inf, jax.lax.min, (1, SSIM_WINDOW, SSIM_WINDOW, 1), (1, 1, 1, 1), "VALID"
        )
        return masked_mean(similarity, inside)
    return masked_mean(similarity)


def dark_and_smooth(y: jax.Array, infrared: jax.Array, dark_level: float, activity_level: float) -> jax.Array:
    """Weight in [0, 1] of pixels where there is nothing to see but noise and codec blocks.

    Args:
        y: luminance of the visible image (N, H, W, 1), before any enhancement.
        infrared: (N, H, W, 1).
        dark_level: local brightness (9x9) at which the weight has fallen to zero.
        activity_level: local mean of the Sobel magnitude, of either image, at which the weight has fallen to
            1/e.

    Returns:
        (N, H, W, 1); carries no gradient.
    """
    dark = jnp.clip(2 * (1 - box_mean(y, 9) / dark_level), 0, 1)
    activity = box_mean(jnp.maximum(sobel_magnitude(y), sobel_magnitude(infrared)), 9)
    return jax.lax.stop_gradient(dark * jnp.exp(-jnp.square(activity / activity_level)))


def total_variation(x: jax.Array, weight: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean weighted |dx| + |dy|, (N,): forward differences, weighed by their first pixel."""
    dx = jnp.pad(jnp.abs(x[:, :, 1:] - x[:, :, :-1]), ((0, 0), (0, 0), (0, 1), (0, 0)))
    dy = jnp.pad(jnp.abs(x[:, 1:] - x[:, :-1]), ((0, 0), (0, 1), (0, 0), (0, 0)))
    return masked_mean((dx + dy) * weight, mask)
