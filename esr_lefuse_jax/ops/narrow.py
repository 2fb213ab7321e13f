"""Convolutions that read or give few channels, for the CPU.

The compiler's convolution is a matrix product behind a copy of every window. With two or three channels on one side
the product is too narrow to pay for that: sums of shifted products take a quarter to a half of the time.
"""

import jax
import jax.numpy as jnp

FEW = 4


def narrow_conv(x: jax.Array, kernel: jax.Array, side: int) -> jax.Array:
    """Convolves with stride 1; pads columns but not rows.

    Args:
        x: (N, H, W, C).
        kernel: (kh, kw, C, F) with at most `FEW` of C or F.
        side: columns of zeros on either side.

    Returns:
        (N, H - kh + 1, W + 2 side - kw + 1, F) in x's dtype; sums are taken in float32 or wider.
    """
    kh, kw, channels, features = kernel.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    kernel = kernel.astype(wide)
    # A tensor of its own: fused into the sums, the padding would check its bounds for every tap.
    padded = jax.lax.optimization_barrier(jnp.pad(x.astype(wide), ((0, 0), (0, 0), (side, side), (0, 0))))
    height, width = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    taps = [(dy, dx) for dy in range(kh) for dx in range(kw)]

    def window(of: jax.Array, dy: int, dx: int) -> jax.Array:
        return of[:, dy : dy + height, dx : dx + width]

    if channels <= FEW:
        terms = [
            window(padded, *tap)[..., c : c + 1] * kernel[*tap, c] for tap in taps for c in range(channels)
        ]
    else:
        # What every pixel gives to each tap and feature, in one product; then the sum over where it is read.
        by_tap = jnp.dot(padded, kernel.transpose(2, 0, 1, 3).reshape(channels, -1))
        by_tap = by_tap.reshape(*padded.shape[:3], len(taps), features)
        terms = [window(by_tap, *tap)[..., i, :] for i, tap in enumerate(taps)]
    return sum(terms[1:], start=terms[0]).astype(x.dtype)
