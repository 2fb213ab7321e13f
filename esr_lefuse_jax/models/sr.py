"""Stage 2: the ESR-U-Net, which enlarges a fused colour image 2, 3 or 4 times.

Three stages of reversed U-blocks (they go up to double resolution and come back), channel attention and residual
dense blocks; their outputs are fused, shuffled up and added to the bicubic enlargement.

Contract: RGB (N, H, W, 3) in [0, 1], any H, W >= 1, to (N, scale*H, scale*W, 3) in [0, 1].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from esr_lefuse_jax.models.layers import Dtype, conv, leaky_relu
from esr_lefuse_jax.ops.resize import bicubic, pixel_shuffle

STAGES = 3


class ResidualDenseBlock(nn.Module):
    """Four convolutions, each on all that came before (Zhang et al., "Residual Dense Network", CVPR 2018)."""

    growth: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        known = x
        for i in (1, 2, 3):
            grown = leaky_relu(conv(self.growth, dtype=self.dtype, name=f"conv{i}")(known))
            known = jnp.concatenate([known, grown], axis=-1)
        return x + 0.2 * conv(x.shape[-1], dtype=self.dtype, name="conv4")(known)


class ChannelAttention(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018) that amplifies: the gate is 1 + sigmoid."""

    reduction: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales the channels of (N, H, W, C)."""
        channels, wide = x.shape[-1], jnp.promote_types(x.dtype, jnp.float32)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=wide)
        hidden = nn.relu(nn.Dense(channels // self.reduction, dtype=wide, name="fc_0")(mean))
        gate = 1 + nn.sigmoid(nn.Dense(channels, dtype=wide, name="fc_2")(hidden))
        return x * gate.astype(self.dtype)


class ReversedUBlock(nn.Module):
    """A U turned over: up to double resolution, two dense blocks there, and down again."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        channels, dtype = x.shape[-1], self.dtype
        y = pixel_shuffle(conv(4 * channels, dtype=dtype, name="up")(x), 2)
        y = leaky_relu(y)
        y = ResidualDenseBlock(dtype=dtype, name="process_0")(y)
        y = ResidualDenseBlock(dtype=dtype, name="process_1")(y)
        y = leaky_relu(conv(channels, stride=2, dtype=dtype, name="down_0")(y))
        y = conv(channels, dtype=dtype, name="down_2")(y)
        return y + conv(channels, 1, dtype=dtype, name="skip")(x)


class ESRUNet(nn.Module):
    """The super-resolution network: 2,869,462 parameters at scale 4.

    Attributes:
        scale: 2, 3 or 4.
        dtype: type of the arithmetic; parameters and the attention's means stay float32.
        features: channels of the body.
    """

    scale: int = 4
    dtype: Dtype = jnp.float32
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Enlarges RGB (N, H, W, 3) in [0, 1] to (N, scale*H, scale*W, 3); clipped to [0, 1] also in training."""
        features, dtype = self.features, self.dtype
        wide = jnp.promote_types(dtype, jnp.float32)
        body = leaky_relu(conv(features, dtype=dtype, name="head")(x.astype(dtype)))
        outputs = [body]
        for i in range(STAGES):
            body = ReversedUBlock(dtype, name=f"rub_{i}")(body)
            body = ChannelAttention(dtype=dtype, name=f"ca_{i}")(body)
            body = ResidualDenseBlock(dtype=dtype, name=f"rdb_{i}")(body)
            outputs.append(body)

        body = leaky_relu(conv(features, 1, dtype=dtype, name="fusion_0")(jnp.concatenate(outputs, axis=-1)))
        body = ChannelAttention(dtype=dtype, name="fusion_ca")(body)
        # No non-linearity stands between these two convolutions.
        body = pixel_shuffle(conv(features * self.scale**2, dtype=dtype, name="upsample_0")(body), self.scale)
        detail = conv(3, dtype=dtype, name="upsample_2")(body)

        image = bicubic(x.astype(wide), self.scale) + detail.astype(wide)
        image = leaky_relu(conv(32, dtype=dtype, name="refine_0")(image.astype(dtype)))
        image = conv(3, dtype=dtype, name="refine_2")(image)
        return jnp.clip(image.astype(wide), 0, 1)
