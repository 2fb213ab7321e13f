"""The networks with formula weights, compiled once for the whole run."""

import functools

import formula
import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.inference import fast_fusion, fast_sr
from esr_lefuse_jax.models.fusion import FusionUNet
from esr_lefuse_jax.models.sr import ESRUNet
from weights_conversion.convert import from_state_dict, unflatten


@functools.cache
def variables(network: str) -> dict:
    """Variables of "fusion" or "sr" with the formula weights."""
    return unflatten(from_state_dict(formula.state_dict(network), network).arrays)


@functools.cache
def prepared(network: str) -> dict:
    """The inference form of the formula weights, float32."""
    prepare = {"fusion": fast_fusion.prepare, "sr": fast_sr.prepare}[network]
    return jax.device_put(prepare(variables(network)))


def image(name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Formula image, NHWC; `shape` is NCHW as the name's definition."""
    return nhwc(formula.image(name, shape))


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.transpose(array, (0, 2, 3, 1))


def nchw(array: np.ndarray) -> np.ndarray:
    return np.transpose(array, (0, 3, 1, 2))


fusion_module = jax.jit(FusionUNet().apply)
sr_module = jax.jit(ESRUNet().apply)
fuse_whole = jax.jit(fast_fusion.fuse_whole)
enlarge_whole = jax.jit(functools.partial(fast_sr.enlarge_whole, scale=4))


def sizes(n: int, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    return jnp.full(n, height, jnp.int32), jnp.full(n, width, jnp.int32)


def padded(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pads with a value that must not show in any result."""
    below, right = height - x.shape[1], width - x.shape[2]
    return np.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), constant_values=0.7)


def assert_parity(actual: np.ndarray, expected: np.ndarray) -> None:
    """The bound that float32 reassociation keeps: 5e-5 at most, 3e-6 on average."""
    difference = np.abs(np.asarray(actual, np.float64) - expected)
    assert difference.max() <= 5e-5, difference.max()
    assert difference.mean() <= 3e-6, difference.mean()
