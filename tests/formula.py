"""Weights and images that follow from their names alone; the golden outputs were computed with exactly these.

Every array is drawn from a generator seeded by the CRC-32 of its name, so no checkpoint is needed to compare
with the original models.
"""

import json
import pathlib
import zlib

import numpy as np

_KEYS = pathlib.Path(__file__).parent / "data" / "golden_keys.json"


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """State-dict entry `key` in PyTorch's layout: float32, or int64 for `num_batches_tracked`."""
    rng = _generator(key)
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.array(1, np.int64)
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        values = rng.uniform(0.5, 1.5, shape)
    elif kind == "temperature":
        values = rng.uniform(0.5, 2.0, shape)
    elif kind in ("running_mean", "bias"):
        values = rng.normal(0, 0.1 if kind == "running_mean" else 0.05, shape)
    else:
        values = rng.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:], dtype=int))
    return values.astype(np.float32)


def image(name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Image `name`, (N, C, H, W) float32 in [0, 1]: six low frequencies and a little noise in each plane."""
    rng = _generator(name)
    n, c, h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    planes = np.zeros(shape)
    for plane in planes.reshape(n * c, h, w):
        for _ in range(6):
            fy, fx, phase = rng.uniform(0, 0.25), rng.uniform(0, 0.25), rng.uniform(0, 2 * np.pi)
            plane += rng.uniform(0.2, 1.0) * np.cos(2 * np.pi * (fy * y + fx * x) + phase)
        plane += rng.normal(0, 0.1, (h, w))
    return ((planes - planes.min()) / (planes.max() - planes.min())).astype(np.float32)


def key_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the original state dict of "fusion" or "sr", in its order."""
    return {key: tuple(shape) for key, shape in json.loads(_KEYS.read_text())[network].items()}


def state_dict(network: str) -> dict[str, np.ndarray]:
    """The whole formula state dict of "fusion" or "sr"."""
    return {key: weight(key, shape) for key, shape in key_shapes(network).items()}


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
