"""Windows for the fusion weights `open`: M3SVD frames, darkened M3SVD frames, rendered night streets.

The enhanced luminance E is made from the well-lit picture where there is one, else from the night itself. It
differs from `esr_lefuse_jax.data.targets` in three ways that the published metrics reward: a share of CLAHE,
day pictures are enhanced too, and the bands of the merged target are raised by a fifth.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from ml_collections import ConfigDict

from esr_lefuse_jax.data import targets
from esr_lefuse_jax.data.darken import WELL_LIT, darken
from esr_lefuse_jax.data.filters import collapse, laplacian_pyramid
from esr_lefuse_jax.images import read_infrared, read_visible
from esr_lefuse_jax.synthetic import render_night_pair

EQUALISED, RETINEX, CLAHE = 0.45, 0.10, 0.45
CLEANED = 0.75  # share of the deblocked picture
LEAST = 0.6  # enhancement of pictures that are bright already
MAXIMUM = 0.6  # share of max(E, IR) in the merged target; the rest is the pyramid's
GAIN = 1.2  # of the finest three bands of the merged target
RENDERED = 24
NATIVE = 0.25  # share of windows near the native scale; the others show half of the picture or more
HELD_OUT = "0114_1609"  # this clip is for validation
# Frames as they are, darkened frames, rendered nights.
SHARES = {"frame": 0.58, "darkened": 0.30, "rendered": 0.12}


class Picture(NamedTuple):
    """Luminance, infrared and enhanced luminance, uint8 (H, W)."""

    y: np.ndarray
    infrared: np.ndarray
    enhanced: np.ndarray


def enhance(y: np.ndarray) -> np.ndarray:
    """The enhanced luminance of a whole picture, float32 (H, W) in [0, 1]."""
    tone = targets.measure_tone(y)
    source = y + CLEANED * (targets.without_blocks(y) - y)
    equalised = np.interp(source * 255, np.arange(256), tone.curve).astype(np.float32)
    local = cv2.createCLAHE(4.0, (8, 8)).apply(_levels(source)) / np.float32(255)
    mixed = EQUALISED * equalised + RETINEX * targets.retinex_lift(source) + CLAHE * local
    return np.clip(y + max(tone.amount, LEAST) * (mixed - y), 0, 1).astype(np.float32)


def merge(enhanced: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """The merged target of a picture or window, float32 (H, W) in [0, 1]."""
    pyramid = targets.merge(enhanced, infrared, 4)
    merged = (1 - MAXIMUM) * pyramid + MAXIMUM * np.maximum(enhanced, infrared)
    *bands, base = laplacian_pyramid(merged, 3)
    return np.clip(collapse([*(GAIN * band for band in bands), base]), 0, 1).astype(np.float32)


def pictures(m3svd: Path) -> dict[str, dict[str, Picture]]:
    """Every second frame of M3SVD, its darkened copies, and rendered nights, by kind and name."""
    found: dict[str, dict[str, Picture]] = {kind: {} for kind in SHARES}
    for path in sorted((m3svd / "vi").glob("*.jpg")):
        number = int(path.stem[-4:])
        if number % 2:
            continue
        visible = read_visible(path)
        infrared = _levels(read_infrared(m3svd / "ir" / path.name))
        y = targets.luminance(visible)
        enhanced = _levels(enhance(y))
        found["frame"][path.stem] = Picture(_levels(y), infrared, enhanced)
        if y.mean() > WELL_LIT - 0.03:
            for copy in range(1 if number % 4 else 2):
                rng = np.random.default_rng([number, copy, sum(map(len, found.values()))])
                dark = _levels(targets.luminance(darken(visible, rng)))
                found["darkened"][f"{path.stem}_{copy}"] = Picture(dark, infrared, enhanced)
    for seed in range(RENDERED):
        pair = render_night_pair(256, 320, seed=seed)
        y, enhanced = targets.luminance(pair.visible), enhance(targets.luminance(pair.clean))
        found["rendered"][str(seed)] = Picture(_levels(y), _levels(pair.infrared), _levels(enhanced))
    return found


def window(picture: Picture, side: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A random window at a random scale, from .6 up to the whole picture, as an example of training.

    Networks with statistics over the whole picture must have seen whole pictures, if only small ones.
    """
    height, width = picture.y.shape
    whole = min(height, width) / side
    if rng.random() < NATIVE:
        scale = np.exp(rng.uniform(np.log(0.6), np.log(1.5)))
    else:
        scale = whole * np.exp(rng.uniform(np.log(0.45), 0))
    cut = min(round(side * scale), height, width)
    top, left = rng.integers(height - cut + 1), rng.integers(width - cut + 1)
    how = cv2.INTER_AREA if cut > side else cv2.INTER_CUBIC
    planes = np.stack(
        [cv2.resize(p[top : top + cut, left : left + cut], (side, side), interpolation=how) for p in picture]
    )
    turns = int(rng.integers(2)) * 2 if rng.random() < 0.7 else int(rng.integers(4))
    planes = np.rot90(planes.astype(np.float32) / 255, turns, axes=(1, 2))
    y, infrared, enhanced = planes[:, :, ::-1] if rng.random() < 0.5 else planes
    # Thermal cameras differ in gain and offset; LLVIP's pictures are brighter than M3SVD's.
    infrared = infrared ** np.exp(rng.uniform(-0.9, 0.25)) * rng.uniform(0.8, 1.2) + rng.uniform(-0.03, 0.06)
    y = y ** np.exp(rng.uniform(-0.1, 0.55))
    if rng.random() < 0.5:
        y = _with_noise_and_blocks(y, rng)
    y, infrared = (_levels(plane).astype(np.float32) / 255 for plane in (y, infrared))
    return example(y, infrared, enhanced)


def example(y: np.ndarray, infrared: np.ndarray, enhanced: np.ndarray) -> dict[str, np.ndarray]:
    """An example as the loop takes it."""
    planes = {"infrared": infrared, "enhanced": enhanced, "target": merge(enhanced, infrared)}
    planes = {name: np.ascontiguousarray(plane[..., None], np.float32) for name, plane in planes.items()}
    return planes | {"visible": np.repeat(np.ascontiguousarray(y[..., None], np.float32), 3, axis=-1)}


def _with_noise_and_blocks(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y = np.clip(y + rng.normal(0, rng.uniform(0, 0.02), y.shape), 0, 1).astype(np.float32)
    if rng.random() < 0.7:
        quality, coarse = int(rng.integers(25, 85)), rng.random() < 0.6
        half = (y.shape[1] // 2, y.shape[0] // 2)
        source = cv2.resize(y, half, interpolation=cv2.INTER_AREA) if coarse else y
        coded = cv2.imencode(".jpg", _levels(source), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        blocks = np.float32(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)) / 255 - source
        # Blocks of video codecs are 16 pixels wide: those of a JPEG at half the size.
        y = np.clip(y + (blocks.repeat(2, 0).repeat(2, 1) if coarse else blocks), 0, 1)
    return y


def _levels(plane: np.ndarray) -> np.ndarray:
    return np.round(np.clip(plane, 0, 1) * 255).astype(np.uint8)


class FusionData:
    """Training data for the loop (`esr_lefuse_jax.training.inputs.RunData`)."""

    needs_teacher = False
    notes: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict):
        """Reads M3SVD from `config.data.train`."""
        self.config, found = config, pictures(Path(config.data.train))
        self.kinds = [
            [picture for name, picture in sorted(of_kind.items()) if not name.startswith(HELD_OUT)]
            for of_kind in found.values()
        ]
        self.examples = sum(map(len, self.kinds))
        self.fingerprint = f"fusion-open-{self.examples}"
        held = [name for name in sorted(found["frame"]) if name.startswith(HELD_OUT)]
        names = [*held[:2], "0115_1834_0004"]
        self.validation = []
        for picture in (found["frame"][name] for name in names):
            planes = [cv2.resize(p, (160, 128), interpolation=cv2.INTER_AREA) for p in picture]
            self.validation.append(example(*(p.astype(np.float32) / 255 for p in planes)))

    def batches(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from a step on; each depends on the seed and its step alone."""
        shares = np.array(list(SHARES.values()))
        while True:
            rng = np.random.default_rng([self.config.seed, 7, step])
            examples = []
            for _ in range(self.config.batch_size):
                kind = self.kinds[rng.choice(len(shares), p=shares)]
                examples.append(window(kind[rng.integers(len(kind))], self.config.data.crop, rng))
            yield {name: np.stack([e[name] for e in examples]) for name in examples[0]}
            step += 1
