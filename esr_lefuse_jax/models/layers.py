"""Layers that both networks share. NHWC; float32 parameters; `dtype` is the type of the arithmetic."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from esr_lefuse_jax.ops.depthwise import depthwise_conv
from esr_lefuse_jax.ops.strided import conv_stride2, conv_transpose2
from esr_lefuse_jax.ops.window_sums import border_sums, window_sums

Dtype = Any

LEAKY_SLOPE = 0.2


# PyTorch's default, with which the original was trained; `training.state` says why no larger one.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
depthwise_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=(0, 1, 2), out_axis=3)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Leaky rectifier with the slope that both networks use."""
    return nn.leaky_relu(x, LEAKY_SLOPE)


class Conv(nn.Module):
    """Convolution with PyTorch's symmetric padding; flax's "SAME" shifts strided convolutions by a pixel.

    Attributes:
        features: output channels.
        size: 1 or 3, both sides of the kernel.
        stride: 1, or 2 with size 3.
        use_bias: whether a bias is added.
        dtype: type of the arithmetic.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), features)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.size == 1:
            # As a product of matrices: the gradient of a 1x1 convolution transposes whole images.
            x = jax.lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
        elif self.stride == 2:
            x = conv_stride2(x, kernel)
        else:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32).astype(
                self.dtype
            )
        return x


class ConvTranspose(nn.Module):
    """Transposed 4x4 convolution with stride 2 and padding 1, without bias; kernel (4, 4, C, features)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, 2H, 2W, features)."""
        kernel = self.param("kernel", kernel_init, (4, 4, x.shape[-1], self.features), jnp.float32)
        return conv_transpose2(x.astype(self.dtype), kernel.astype(self.dtype))


def conv(
    features: int, size: int = 3, *, name: str, stride: int = 1, bias: bool = True, dtype: Dtype = jnp.float32
) -> Conv:
    """A named `Conv`, short enough for an architecture to read top to bottom."""
    return Conv(features, size, stride, bias, dtype, name=name)


class DepthwiseConv(nn.Module):
    """Depthwise convolution, stride 1, same size; kernel (size, size, 1, C)."""

    size: int
    use_bias: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves every channel of (N, H, W, C) with its own kernel."""
        channels = x.shape[-1]
        kernel = self.param("kernel", depthwise_init, (self.size, self.size, 1, channels), jnp.float32)
        x = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
            x = x + bias.astype(self.dtype)
        return x


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every pixel; statistics in float32 or wider."""

    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises (N, H, W, C) over C."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        return channel_norm(x, scale, bias, self.epsilon).astype(self.dtype)


def channel_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Layer norm of (..., C) over C with biased variance; computed and returned in float32 or wider."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon) * scale.astype(x.dtype) + bias.astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch norm whose running statistics follow PyTorch: momentum .1, unbiased variance, and a step count.

    flax's own keeps the biased variance, which drifts from the original by n / (n - 1). Under `jit` over a mesh the
    mean runs over the global batch, so the statistics are synchronised without further code.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises (N, H, W, C) with the batch's statistics (train) or the running ones."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        x = x.astype(wide)
        if train:
            mean = jnp.mean(x, axis=(0, 1, 2))
            variance = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2))
            if not self.is_initializing():
                samples = x.size // channels
                unbiased = variance * (samples / max(samples - 1, 1))
                keep = 1 - self.momentum
                running_mean.value = (keep * running_mean.value + self.momentum * mean).astype(jnp.float32)
                running_var.value = (keep * running_var.value + self.momentum * unbiased).astype(jnp.float32)
                count.value = count.value + 1
        else:
            mean, variance = running_mean.value.astype(wide), running_var.value.astype(wide)
        scale = scale.astype(wide) * jax.lax.rsqrt(variance + self.epsilon)
        return ((x - mean) * scale + bias.astype(wide)).astype(self.dtype)


class MeanOfConv(nn.Module):
    """The mean over all pixels of a zero-padded 3x3 convolution, computed from nine window sums.

    Parameters are those of the convolution; see `ops.window_sums` for why no convolution is needed.
    """

    features: int

    @nn.compact
    def __call__(self, *parts: jax.Array) -> jax.Array:
        """Takes the channel-wise concatenation of (N, H, W, C_i), returns (N, features), float32 or wider."""
        channels = sum(part.shape[-1] for part in parts)
        kernel = self.param("kernel", kernel_init, (3, 3, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        _, h, w, _ = parts[0].shape
        regions = jnp.concatenate([border_sums(part) for part in parts], axis=-1)
        return mean_of_conv(regions, h * w, kernel, bias)


def mean_of_conv(
    regions: jax.Array, pixels: jax.Array | int, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
    """Mean over pixels of a 3x3 convolution from `border_sums` (N, 3, 3, C) of its input; returns (N, features)."""
    means = window_sums(regions) / pixels
    kernel, bias = kernel.astype(means.dtype), bias.astype(means.dtype)
    return jnp.einsum("nhwc,hwcf->nf", means, kernel, precision=jax.lax.Precision.HIGHEST) + bias
