"""RRDBNet, the network of ESRGAN and Real-ESRGAN x4plus, here the teacher that makes pseudo high-resolution images.

Wang et al., "ESRGAN", ECCVW 2018; Wang et al., "Real-ESRGAN", ICCVW 2021.
Contract: RGB (N, H, W, 3) in [0, 1] to (N, 4H, 4W, 3), not clipped.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from esr_lefuse_jax.models.layers import Dtype, conv, leaky_relu

RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five densely connected convolutions with a scaled residual."""

    growth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        known = x
        for i in (1, 2, 3, 4):
            grown = leaky_relu(conv(self.growth, dtype=self.dtype, name=f"conv{i}")(known))
            known = jnp.concatenate([known, grown], axis=-1)
        return x + RESIDUAL_SCALE * conv(x.shape[-1], dtype=self.dtype, name="conv5")(known)


class ResidualInResidual(nn.Module):
    """Three dense blocks with a scaled residual around them."""

    growth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        y = x
        for i in (1, 2, 3):
            y = DenseBlock(self.growth, self.dtype, name=f"rdb{i}")(y)
        return x + RESIDUAL_SCALE * y


class RRDBNet(nn.Module):
    """Residual-in-residual dense network; the defaults are Real-ESRGAN x4plus with 16,697,987 parameters."""

    num_blocks: int = 23
    features: int = 64
    growth: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Enlarges (N, H, W, 3) four times."""
        dtype = self.dtype
        first = conv(self.features, dtype=dtype, name="conv_first")(x.astype(dtype))
        body = first
        for i in range(self.num_blocks):
            body = ResidualInResidual(self.growth, dtype, name=f"body_{i}")(body)
        body = first + conv(self.features, dtype=dtype, name="conv_body")(body)
        for name in ("conv_up1", "conv_up2"):
            body = leaky_relu(conv(self.features, dtype=dtype, name=name)(nearest_2x(body)))
        body = leaky_relu(conv(self.features, dtype=dtype, name="conv_hr")(body))
        body = conv(3, dtype=dtype, name="conv_last")(body)
        return body.astype(jnp.promote_types(dtype, jnp.float32))


def nearest_2x(x: jax.Array) -> jax.Array:
    """Doubles (N, H, W, C) by repeating pixels."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
