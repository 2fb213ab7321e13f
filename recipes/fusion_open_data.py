"""Windows for the fusion weights `open`: M3SVD frames in many exposures and behind haze, darkened, rendered nights.

For the weights `research` windows of real pairs come in between: `--config.data.train=M3SVD,FOLDER,...`, each further
folder with `ir/` and `vi/`.

The enhanced luminance E is made from the picture that the network sees, in its exposure, so that it is a function of
the input; only where a picture is darkened with lamps and noise, or rendered, is it made from the well-lit one. It
differs from `esr_lefuse_jax.data.targets` in that it has a share of CLAHE, and in that day pictures are enhanced too;
the merged target is the maximum of E and infrared, each with a little more contrast.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from ml_collections import ConfigDict

from esr_lefuse_jax.data import targets
from esr_lefuse_jax.data.darken import WELL_LIT, darken
from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.images import read_infrared, read_visible
from esr_lefuse_jax.pairs import find_pairs
from esr_lefuse_jax.synthetic import render_night_pair

EQUALISED, RETINEX, CLAHE = 0.42, 0.18, 0.40
CLEANED = 0.65  # share of the deblocked picture
LEAST = 0.6  # enhancement of pictures that are bright already
SLOPE, OFFSET = 1.15, 0.1  # of the logit of E, for contrast
FLOOR, GAIN = -2.6, 5.4  # logit that stands for infrared level 0, and what it gains up to level 1
RENDERED = 24
NATIVE = 0.25  # share of windows near the native scale; the others show .45 of the short side or more
HELD_OUT = "0114_1609"  # this clip is for validation
# Frames in another exposure, behind a veil, darkened, rendered nights.
SHARES = {"exposed": 0.52, "hazy": 0.13, "darkened": 0.25, "rendered": 0.10}
REAL = 0.6  # share of windows of real pairs where there are any; the others have the rest
MEASURED = "010001"  # this picture of LLVIP's training set is for measuring
EXPOSURES = 3  # of each frame
NIGHT, DAY = 0.08, 0.45  # range of mean luminance


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


def logits(enhanced: np.ndarray) -> np.ndarray:
    """The enhanced luminance as logits, with a little more contrast."""
    enhanced = np.clip(enhanced, 1e-2, 1 - 1e-2)
    return SLOPE * np.log(enhanced / (1 - enhanced)) + OFFSET


def merge(enhanced: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """The merged target of a picture or window, float32 (H, W) in [0, 1]."""
    logit = np.maximum(logits(enhanced), FLOOR + GAIN * infrared)
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def exposed(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture with another tone curve: of a mean luminance from night to day, with black not quite black."""
    wanted = np.exp(rng.uniform(np.log(NIGHT), np.log(DAY)))
    powers = np.geomspace(0.5, 5, 60)
    means = np.array([float(np.mean(y[::4, ::4] ** power)) for power in powers])
    power = powers[np.argmin(np.abs(means - wanted))]
    black = rng.uniform(0, 0.05)
    return (black + (1 - black) * y**power).astype(np.float32)


def veiled(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture in haze."""
    veil = rng.uniform(0.4, 0.8)
    return (veil + rng.uniform(0.35, 0.9) * (y - veil)).astype(np.float32)


def pictures(m3svd: Path) -> dict[str, dict[str, Picture]]:
    """Every second frame of M3SVD in each kind, and rendered nights, by kind and name."""
    found: dict[str, dict[str, Picture]] = {kind: {} for kind in SHARES}
    files = sorted((m3svd / "vi").glob("*.jpg"))
    if not files:
        raise ConfigError(f"{m3svd}: has no vi/*.jpg; give the folder of M3SVD's frames")
    for path in files:
        number = int(path.stem[-4:])
        if number % 2:
            continue
        visible = read_visible(path)
        infrared = _levels(read_infrared(m3svd / "ir" / path.name))
        y = targets.luminance(visible)
        rng = np.random.default_rng([number, sum(map(len, found.values()))])
        for copy in range(EXPOSURES):
            seen = exposed(y, rng)
            found["exposed"][f"{path.stem}_{copy}"] = Picture(_levels(seen), infrared, _levels(enhance(seen)))
        seen = veiled(y, rng)
        found["hazy"][path.stem] = Picture(_levels(seen), infrared, _levels(enhance(seen)))
        if y.mean() > WELL_LIT - 0.03:
            enhanced = _levels(enhance(y))
            for copy in range(1 if number % 4 else 2):
                dark = _levels(targets.luminance(darken(visible, rng)))
                found["darkened"][f"{path.stem}_{copy}"] = Picture(dark, infrared, enhanced)
    for seed in range(RENDERED):
        pair = render_night_pair(256, 320, seed=seed, noise=1.0)
        y, enhanced = targets.luminance(pair.visible), enhance(targets.luminance(pair.clean))
        found["rendered"][str(seed)] = Picture(_levels(y), _levels(pair.infrared), _levels(enhanced))
    return found


def real_pictures(folder: Path) -> tuple[dict[str, Picture], list[str]]:
    """The pairs of a folder as they are, by stem, and lines about files that did not pair."""
    found = {}
    pairs, problems = find_pairs(folder / "ir", folder / "vi")
    for pair in pairs:
        if pair.stem != MEASURED:
            y, infrared = targets.luminance(read_visible(pair.visible)), read_infrared(pair.infrared)
            found[pair.stem] = Picture(_levels(y), _levels(infrared), _levels(enhance(y)))
    if not found:
        raise ConfigError(f"{folder}: has no pairs in ir/ and vi/")
    return found, problems


def window(picture: Picture, side: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A random window at a random scale, from .4 up to the whole picture, as an example of training.

    Networks with statistics over the whole picture must have seen whole pictures, if only small ones.
    """
    height, width = picture.y.shape
    whole = min(height, width) / side
    if rng.random() < NATIVE:
        scale = np.exp(rng.uniform(np.log(0.4), np.log(1.5)))
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
    darkness = np.clip((0.4 - y.mean()) / 0.25, 0, 1)  # by day sensors are quiet, and grain is picture
    if rng.random() < 0.25 + 0.35 * darkness:
        y = _with_noise_and_blocks(y, 0.01 + 0.02 * darkness, rng)
    y, infrared = (_levels(plane).astype(np.float32) / 255 for plane in (y, infrared))
    return example(y, infrared, enhanced)


def example(y: np.ndarray, infrared: np.ndarray, enhanced: np.ndarray) -> dict[str, np.ndarray]:
    """An example as the loop takes it."""
    planes = {"infrared": infrared, "enhanced": enhanced, "target": merge(enhanced, infrared)}
    planes = {name: np.ascontiguousarray(plane[..., None], np.float32) for name, plane in planes.items()}
    return planes | {"visible": np.repeat(np.ascontiguousarray(y[..., None], np.float32), 3, axis=-1)}


def _with_noise_and_blocks(y: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
    y = np.clip(y + rng.normal(0, rng.uniform(0, most), y.shape), 0, 1).astype(np.float32)
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
        """Reads the folders that `config.data.train` names; raises EsrLefuseError for what is not there."""
        m3svd, *real = map(Path, config.data.train.split(","))
        self.config, found = config, pictures(m3svd)
        self.kinds = [
            [picture for name, picture in sorted(of_kind.items()) if not name.startswith(HELD_OUT)]
            for of_kind in found.values()
        ]
        shares = np.array(list(SHARES.values())) * (1 - REAL if real else 1)
        names = [name for of_kind in found.values() for name in sorted(of_kind)]
        for folder in real:
            pairs, problems = real_pictures(folder)
            self.kinds.append(list(pairs.values()))
            self.notes += tuple(problems)
            names += [f"{folder.name}/{stem}" for stem in pairs]
        self.shares = np.append(shares, [REAL / len(real) for _ in real])
        self.examples = sum(map(len, self.kinds))
        # Other windows, or windows of other files, are another run.
        code = hashlib.sha256(Path(__file__).read_bytes() + "\n".join(names).encode()).hexdigest()
        self.fingerprint = f"fusion-open-{self.examples}-{code[:12]}"
        held = {
            kind: [p for name, p in sorted(of_kind.items()) if name.startswith(HELD_OUT)]
            for kind, of_kind in found.items()
        }
        self.validation = []
        for picture in (*held["exposed"][:6], held["hazy"][0], *held["darkened"][:2]):
            planes = [cv2.resize(p, (320, 240), interpolation=cv2.INTER_AREA) for p in picture]
            self.validation.append(example(*(p.astype(np.float32) / 255 for p in planes)))

    def batches(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from a step on; each depends on the seed and its step alone."""
        while True:
            rng = np.random.default_rng([self.config.seed, 7, step])
            examples = []
            for _ in range(self.config.batch_size):
                number = rng.choice(len(self.shares), p=self.shares)
                picture = self.kinds[number][rng.integers(len(self.kinds[number]))]
                examples.append(window(picture, self.config.data.crop, rng))
            yield {name: np.stack([e[name] for e in examples]) for name in examples[0]}
            step += 1
