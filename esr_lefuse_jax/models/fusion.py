"""Stage 1: the dual-branch fusion U-Net on luminance and infrared.

The network of LEFuse and ESR-LEFuse: four scales of dual-branch modules, each a local texture path (depthwise
convolutions around a gated product) beside a global context path (transposed, that is channel, attention as in
Restormer, Zamir et al., CVPR 2022), weighed against each other by a channel recalibration.

Contract: luminance and infrared (N, H, W, 1) in [0, 1], any H, W >= 1; the fused luminance comes back in that shape.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from esr_lefuse_jax.models.layers import (
    BatchNorm,
    ChannelNorm,
    ConvTranspose,
    DepthwiseConv,
    Dtype,
    MeanOfConv,
    conv,
    leaky_relu,
)

HEAD_CHANNELS = 8
NORM_FLOOR = 1e-12


class ChannelAttention(nn.Module):
    """Attention between the channels of each head; the pixels are the summed dimension."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, d) to the same shape; heads are contiguous groups of 8 channels."""
        n, h, w, dim = x.shape
        heads = dim // HEAD_CHANNELS
        temperature = self.param("temperature", nn.initializers.ones_init(), (heads,), jnp.float32)
        qkv = conv(3 * dim, 1, bias=False, dtype=self.dtype, name="qkv")(x)
        qkv = DepthwiseConv(3, use_bias=False, dtype=self.dtype, name="qkv_dwconv")(qkv)
        q, k, v = jnp.split(qkv.reshape(n, h * w, 3, heads, HEAD_CHANNELS), 3, axis=2)
        attention = attention_matrix(q[:, :, 0], k[:, :, 0], temperature)
        out = jnp.einsum("nhcd,nphd->nphc", attention.astype(self.dtype), v[:, :, 0])
        return conv(dim, 1, bias=False, dtype=self.dtype, name="project_out")(out.reshape(n, h, w, dim))


def attention_matrix(q: jax.Array, k: jax.Array, temperature: jax.Array) -> jax.Array:
    """Softmax of the cosine between channels over the pixels.

    Args:
        q: queries (N, P, heads, c).
        k: keys, same shape.
        temperature: (heads,).

    Returns:
        (N, heads, c, c), float32 or wider.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    gram = jnp.einsum("nphc,nphd->nhcd", q, k, preferred_element_type=wide)
    q_norm = jnp.sqrt(jnp.sum(jnp.square(q.astype(wide)), axis=1) + NORM_FLOOR**2)
    k_norm = jnp.sqrt(jnp.sum(jnp.square(k.astype(wide)), axis=1) + NORM_FLOOR**2)
    cosine = gram / (q_norm[..., :, None] * k_norm[..., None, :])
    return jax.nn.softmax(cosine * temperature.astype(wide)[None, :, None, None], axis=-1)


class GatedFeedForward(nn.Module):
    """Feed-forward layer with a depthwise convolution and a GELU gate (exact, not the tanh form)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, d) to the same shape."""
        dim = x.shape[-1]
        hidden = conv(4 * dim, 1, bias=False, dtype=self.dtype, name="project_in")(x)
        hidden = DepthwiseConv(3, use_bias=False, dtype=self.dtype, name="dwconv")(hidden)
        gate, value = jnp.split(hidden, 2, axis=-1)
        return conv(dim, 1, bias=False, dtype=self.dtype, name="project_out")(
            nn.gelu(gate, approximate=False) * value
        )


class GlobalContextPath(nn.Module):
    """Transformer block whose attention runs over channels, so that every pixel sees the whole image."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, d) to the same shape."""
        x = x + ChannelAttention(self.dtype, name="attn")(ChannelNorm(dtype=self.dtype, name="norm1")(x))
        return x + GatedFeedForward(self.dtype, name="ffn")(ChannelNorm(dtype=self.dtype, name="norm2")(x))


class ConvUnit(nn.Module):
    """A 1x1 or depthwise 7x7 convolution with bias, optionally with batch norm behind it."""

    features: int
    size: int = 1
    norm: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, features)."""
        if self.size == 1:
            x = conv(self.features, 1, dtype=self.dtype, name="conv")(x)
        else:
            x = DepthwiseConv(self.size, use_bias=True, dtype=self.dtype, name="conv")(x)
        return BatchNorm(dtype=self.dtype, name="bn")(x, train) if self.norm else x


class LocalTexturePath(nn.Module):
    """Texture from 7x7 neighbourhoods: depthwise convolutions around a gated product of two expansions."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, d) to the same shape."""
        dim, dtype = x.shape[-1], self.dtype
        texture = ConvUnit(dim, 7, norm=True, dtype=dtype, name="dwconv")(x, train)
        gate = nn.relu6(ConvUnit(3 * dim, dtype=dtype, name="f1")(texture, train))
        value = ConvUnit(3 * dim, dtype=dtype, name="f2")(texture, train)
        texture = ConvUnit(dim, norm=True, dtype=dtype, name="g")(gate * value, train)
        texture = ConvUnit(dim, 7, dtype=dtype, name="dwconv2")(texture, train)
        return texture + ConvUnit(dim, norm=True, dtype=dtype, name="aux_g")(x, train)


class ChannelRecalibration(nn.Module):
    """One weight for each channel of either path, from the means of both."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, context: jax.Array, texture: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the weights (N, 1, 1, d) of the global context and of the local texture, in (0, 1)."""
        dim = context.shape[-1]
        squeezed = MeanOfConv(2 * dim, name="se_conv1")(context, texture)[:, None, None]
        wide = squeezed.dtype
        squeezed = conv(2 * dim, 1, dtype=wide, name="se_conv2")(squeezed)
        context_weight = nn.sigmoid(conv(dim, 1, dtype=wide, name="se_conv3")(squeezed))
        texture_weight = nn.sigmoid(conv(dim, 1, dtype=wide, name="se_conv4")(squeezed))
        return context_weight.astype(self.dtype), texture_weight.astype(self.dtype)


class DualBranchModule(nn.Module):
    """Global context and local texture, recalibrated and added to the input."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, d) to the same shape; d is a multiple of 8."""
        context = GlobalContextPath(self.dtype, name="global_path")(x)
        texture = LocalTexturePath(self.dtype, name="local_path")(x, train)
        context_weight, texture_weight = ChannelRecalibration(self.dtype, name="recalibration")(
            context, texture
        )
        return x + texture * texture_weight + context * context_weight


class FusionUNet(nn.Module):
    """The fusion network: 3,898,345 parameters.

    Attributes:
        dtype: type of the arithmetic; parameters, norm statistics and softmax stay float32.
        dim: channels at full resolution.
    """

    dtype: Dtype = jnp.float32
    dim: int = 32

    @nn.compact
    def __call__(self, y: jax.Array, infrared: jax.Array, train: bool = False) -> jax.Array:
        """Fuses visible luminance and infrared, each (N, H, W, 1) in [0, 1], to luminance in (0, 1).

        With `train` the batch norms use the batch's statistics; pass `mutable=["batch_stats"]` to `apply`.
        """
        d, dtype = self.dim, self.dtype

        def block(x: jax.Array, name: str) -> jax.Array:
            return DualBranchModule(dtype, name=name)(x, train)

        x = jnp.concatenate([y, infrared], axis=-1).astype(dtype)
        skips = []
        for level, features in enumerate((d, 2 * d, 3 * d, 4 * d), start=1):
            x = conv(features, stride=1 if level == 1 else 2, dtype=dtype, name=f"emb{level}")(x)
            x = block(x, f"blk{level}")
            skips.append(x)

        skips.pop()
        for index, (up, features) in enumerate((("up4", 3 * d), ("up3", 2 * d), ("up2", d)), start=1):
            skip = skips.pop()
            x = ConvTranspose(features, dtype, name=up)(x)
            x = fit_to(nn.relu(x), skip.shape[1], skip.shape[2])
            x = conv(features, dtype=dtype, name=f"conv_3_{index}")(jnp.concatenate([x, skip], axis=-1))
            x = block(x, f"upblk{index}")
        x = block(x, "upblk4_0")
        x = block(x, "upblk4_1")
        x = leaky_relu(conv(d // 2, dtype=dtype, name="dec_0")(x))
        x = conv(1, dtype=dtype, name="dec_2")(x)
        return nn.sigmoid(x.astype(jnp.promote_types(dtype, jnp.float32)))


def fit_to(x: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes an up-sampled map to the skip's size when an odd size made it a pixel larger (bilinear)."""
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear", antialias=False)
