"""VGG16 features for the perceptual loss (Simonyan and Zisserman, ICLR 2015; Johnson et al., ECCV 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.models.layers import Dtype, conv

# Channels of the ten convolutions up to relu4_3; a list is one scale, max pooling stands between scales.
SCALES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


class VGG16Features(nn.Module):
    """Activations relu1_2, relu2_2, relu3_3 and relu4_3."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, rgb: jax.Array) -> tuple[jax.Array, ...]:
        """Takes RGB (N, H, W, 3) in [0, 1]; normalises by ImageNet's mean and standard deviation itself.

        Returns:
            Four maps (N, H / 2^i, W / 2^i, C_i). H and W must be at least 8.
        """
        mean, std = jnp.asarray(IMAGENET_MEAN, rgb.dtype), jnp.asarray(IMAGENET_STD, rgb.dtype)
        x = ((rgb - mean) / std).astype(self.dtype)
        features, index = [], 0
        for scale, channels in enumerate(SCALES):
            if scale:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for width in channels:
                x = nn.relu(conv(width, dtype=self.dtype, name=f"conv{index}")(x))
                index += 1
            features.append(x)
        return tuple(features)
