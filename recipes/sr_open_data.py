"""Windows for the super-resolution weights `open`: M3SVD frames and free pictures that come with Python packages."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import skimage
from ml_collections import ConfigDict
from PIL import Image

from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.metrics import box_down

HELD_OUT = "0114_1609"  # this clip, coffee.png and chelsea.png are for validation
# CC0 or public domain; the numbers are how often one is drawn, against 1 for a frame.
FREE_PICTURES = {
    "astronaut.png": 8.0,
    "rocket.jpg": 8.0,
    "brick.png": 3.0,
    "gravel.png": 3.0,
    "grass.png": 3.0,
    "hubble_deep_field.jpg": 3.0,
    "camera.png": 3.0,
}
PORTRAIT, PORTRAIT_SHARE = "sample_data/grace_hopper.jpg", 6.0  # of matplotlib; public domain
REDUCED = 0.4  # share of windows cut larger and reduced, which makes them sharper
BOX = 0.65  # share reduced by box means, as the evaluation does; the rest bicubic with antialiasing
DIM = 0.3  # share of dimmed windows


def read(path: Path) -> np.ndarray:
    """A picture, uint8 (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def skimage_picture(name: str) -> np.ndarray:
    """A picture of scikit-image's wheel."""
    return read(Path(skimage.__file__).parent / "data" / name)


def reduce(hr: np.ndarray, scale: int, box: bool) -> np.ndarray:
    """The input that belongs to a reference, both float32 in [0, 1], at 256 levels."""
    if box:
        lr = box_down(hr * 255, scale) / 255
    else:
        size = (hr.shape[1] // scale, hr.shape[0] // scale)
        lr = (
            np.asarray(
                Image.fromarray(np.round(hr * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
            )
            / 255
        )
    return (np.round(lr * 255) / 255).astype(np.float32)


class SuperResolutionData:
    """Training data for the loop (`esr_lefuse_jax.training.inputs.RunData`)."""

    needs_teacher = False
    notes: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict):
        """Reads M3SVD from `config.data.train`."""
        self.config = config
        files = sorted((Path(config.data.train) / "vi").glob("*.jpg"))
        if not files:
            raise ConfigError(f"{config.data.train}: has no vi/*.jpg; give the folder of M3SVD's frames")
        kept = [f for f in files if not f.name.startswith(HELD_OUT)]
        self.pictures = [read(f) for f in kept] + [skimage_picture(name) for name in FREE_PICTURES]
        self.pictures.append(read(Path(matplotlib.get_data_path()) / PORTRAIT))
        weights = np.array([1.0] * len(kept) + [*FREE_PICTURES.values(), PORTRAIT_SHARE])
        self.shares = weights / weights.sum()
        self.examples = 20 * len(self.pictures)
        code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # other windows are another run
        self.fingerprint = f"sr-open-{len(self.pictures)}-{code[:12]}"
        held = [read(f) for f in files if f.name.startswith(HELD_OUT)][::7]
        self.validation = []
        for picture in [skimage_picture("coffee.png"), skimage_picture("chelsea.png"), *held]:
            hr = picture[100:356, 100:356].astype(np.float32) / 255
            self.validation.append({"lr": reduce(hr, config.model.scale, box=True), "hr": hr})

    def batches(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from a step on; each depends on the seed and its step alone."""
        while True:
            rng = np.random.default_rng([self.config.seed, step])
            pairs = [self._window(rng) for _ in range(self.config.batch_size)]
            yield {name: np.stack([pair[name] for pair in pairs]) for name in ("lr", "hr")}
            step += 1

    def _window(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        scale = self.config.model.scale
        side = self.config.data.crop * scale
        picture = self.pictures[rng.choice(len(self.shares), p=self.shares)]
        cut = side
        if rng.random() < REDUCED:
            cut = min(round(side * rng.uniform(1.3, 2.2)), *picture.shape[:2])
        places = []
        for _ in range(2):
            top, left = (int(rng.integers(length - cut + 1)) for length in picture.shape[:2])
            window = picture[top : top + cut, left : left + cut]
            places.append((np.abs(np.diff(window[..., 1].astype(np.float32), axis=0)).mean(), window))
        # The livelier of two places: sky teaches little.
        hr = max(places, key=lambda place: place[0])[1]
        if cut > side:
            hr = np.asarray(Image.fromarray(hr).resize((side, side), Image.Resampling.BOX))
        hr = hr.astype(np.float32) / 255
        hr = np.rot90(hr, int(rng.integers(4)))
        hr = hr[:, ::-1] if rng.random() < 0.5 else hr
        if rng.random() < DIM:
            hr = hr * np.float32(rng.uniform(0.3, 1))
        hr = np.ascontiguousarray(hr, np.float32)
        return {"lr": reduce(hr, scale, box=bool(rng.random() < BOX)), "hr": hr}
