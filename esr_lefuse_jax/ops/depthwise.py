"""Depthwise convolution as a sum of shifted products.

XLA lowers `feature_group_count` convolutions on the CPU to slow loops; a sum of shifted products is one vectorised
loop over the contiguous channels and several times faster. Its automatic gradient would differentiate every shifted
slice (each a padded add, minutes of compilation), so the gradient is written here: with respect to the input it is
the same operation with the flipped kernel, with respect to the kernel one reduction for each tap.
"""

import functools

import jax
import jax.numpy as jnp


@jax.custom_vjp
def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves every channel with its own kernel, stride 1, zero padding, same size.

    Args:
        x: (N, H, W, C).
        kernel: (kh, kw, 1, C) with odd kh and kw, of x's dtype.

    Returns:
        (N, H, W, C) in x's dtype; sums are taken in float32 or wider.
    """
    return jax.lax.platform_dependent(x, kernel, tpu=_grouped, default=_shifted)


def _grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # The TPU compiler has its own good form of this.
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def pad_for(x: jax.Array, kernel_shape: tuple[int, ...]) -> jax.Array:
    """Zero-pads (N, H, W, C) by half the kernel, as a tensor of its own.

    The barrier keeps XLA from fusing the padding into its consumer, where a bounds check for every tap would stop
    the loop from being vectorised.
    """
    ph, pw = kernel_shape[0] // 2, kernel_shape[1] // 2
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0))))


def shifted_sum(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """The valid depthwise convolution of an already padded input, as a sum of shifted products."""
    kh, kw, _, channels = kernel.shape
    height = padded.shape[1] - kh + 1
    wide = jnp.promote_types(padded.dtype, jnp.float32)
    kernel = kernel.reshape(kh, kw, channels).astype(wide)
    total = None
    for dy in range(kh):
        rows = jax.lax.slice_in_dim(padded, dy, dy + height, axis=1)
        part = _sum_along_rows(rows, jax.lax.index_in_dim(kernel, dy, keepdims=False))
        total = part if total is None else jax.lax.add(total, part)
    assert total is not None
    return total.astype(padded.dtype)


# Compiled away, but traced and lowered once for all rows of all kernels: a program's start is mostly tracing, and jax's
# primitives are traced several times faster than the array syntax.
@jax.jit
def _sum_along_rows(x: jax.Array, taps: jax.Array) -> jax.Array:
    """The valid convolution of every row of (N, H, W, C) with (kw, C), in the type of the taps."""
    n, height, width, channels = x.shape
    width = width - len(taps) + 1
    total = None
    for dx in range(len(taps)):
        window = jax.lax.slice_in_dim(x, dx, dx + width, axis=2).astype(taps.dtype)
        weight = jax.lax.slice_in_dim(taps, dx, dx + 1)
        product = jax.lax.mul(window, jax.lax.broadcast_in_dim(weight, (n, height, width, channels), (0, 3)))
        total = product if total is None else jax.lax.add(total, product)
    assert total is not None
    return total


def _shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return shifted_sum(pad_for(x, kernel.shape), kernel)


def _forward(x: jax.Array, kernel: jax.Array):
    return depthwise_conv(x, kernel), (x, kernel)


def _backward(residuals, grad: jax.Array):
    x, kernel = residuals
    kh, kw, _, channels = kernel.shape
    grad_x = depthwise_conv(grad, kernel[::-1, ::-1])
    padded = pad_for(x, kernel.shape)
    wide = jnp.promote_types(x.dtype, jnp.float32)

    # A loop over the taps, not an unrolled sum: every reduction is bound by memory, and one body compiles fast.
    # The sum over the batch comes after the loop: over several devices it is a collective, and collectives in the
    # bodies of loops that may run side by side meet in another order on every host.
    @functools.partial(jax.lax.map, xs=jnp.arange(kh * kw))
    def by_example(tap: jax.Array) -> jax.Array:
        window = jax.lax.dynamic_slice(padded, (0, tap // kw, tap % kw, 0), x.shape)
        return jnp.sum(window.astype(wide) * grad.astype(wide), axis=(1, 2))

    grad_kernel = jnp.sum(by_example, axis=1)
    return grad_x, grad_kernel.reshape(kh, kw, 1, channels).astype(kernel.dtype)


depthwise_conv.defvjp(_forward, _backward)
