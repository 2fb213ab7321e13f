"""The pictures that stand beside each other for one image: sources, fused, reference, bicubic, enlarged."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from esr_lefuse_jax.errors import ImageError
from esr_lefuse_jax.evaluation.inputs import Inputs, lr_path, read_infrared_levels, read_levels
from esr_lefuse_jax.metrics import bicubic_up


@dataclasses.dataclass(frozen=True)
class Layer:
    """One picture: `key` identifies it across images, `label` is for reading, `image` is uint8."""

    key: str
    label: str
    image: np.ndarray


def layers(inputs: Inputs, stem: str) -> Iterator[Layer]:
    """Yields the layers of an image, one at a time because enlarged ones are big.

    Files that cannot be read are left out: the evaluation names them.
    """
    pair = inputs.sources.get(stem)
    if pair:
        yield from _read("infrared", "infrared", pair.infrared, read_infrared_levels)
        yield from _read("visible", "visible", pair.visible)
    for method in inputs.methods:
        label = f"{method.name}, fused" if method.enlarged else method.name
        yield from _read(f"fused:{method.name}", label, method.fused.get(stem))
    yield from _read("reference", "reference", inputs.references.get(stem))
    enlarged = [method for method in inputs.methods if stem in method.enlarged]
    if enlarged:
        for layer in _read("bicubic", "bicubic 4x", lr_path(inputs, enlarged[0], stem)):
            yield dataclasses.replace(layer, image=bicubic_up(layer.image, 4, rounded=True))
    for method in enlarged:
        yield from _read(f"enlarged:{method.name}", f"{method.name}, enlarged", method.enlarged[stem])


def _read(
    key: str, label: str, path: Path | None, reader: Callable[[Path], np.ndarray] = read_levels
) -> Iterator[Layer]:
    if path is None:
        return
    try:
        image = reader(path)
    except ImageError:
        return
    yield Layer(key, label, image)
