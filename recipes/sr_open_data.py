"""Windows for the super-resolution weights `open`: M3SVD frames, free pictures of packages, and the teacher's references.

`--config.data.train` is `M3SVD[,PHOTOGRAPHS[,PSEUDO_HR]]`: the frames; the folder in which Debian's package
`lomiri-wallpapers-16.04` puts its pictures; a set that `launch/make_pseudo_hr.py` made from the frames. Where the
last, or the last two, are left out, the shares of the others grow.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import skimage
from ml_collections import ConfigDict
from PIL import Image

from esr_lefuse_jax.data.sources import RawLrHr, SourceSpec, open_records
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
# CC BY 4.0, one (seeding) CC0; by the package's copyright file the authors are Aitzol Berasategi, Trevor "Freespace",
# Jakub Mede and Clemens Engelhardt. Beside each name how its SHA-256 begins.
PHOTOGRAPHS = {
    "Picture_0B_by_freespace.jpg": "c8c0ab18e48d9e04",
    "Picture_1A_by_freespace.jpg": "89e86af38d04daae",
    "Wine_by_Jakkub_Mede.jpg": "d2e96e6d4da40dd8",
    "aitzgorri_by_Aitzol_Berasategi.jpg": "66268e7b48f8854d",
    "friends_by_Aitzol_Berasategi.jpg": "cc40e313c74e421e",
    "life_by_Aitzol_Berasategi.jpg": "4c119350ead80201",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "414d0072b2f6f2c5",
    "seeding_by_Clements_Engelhardt.jpg": "a5634d1ab5e41a35",
    "sunset_by_Aitzol_Berasategi.jpg": "474dab6a4b9f94dc",
}
PORTRAIT, PORTRAIT_SHARE = "sample_data/grace_hopper.jpg", 6.0  # of matplotlib; public domain
SHARES = {"frames": 0.38, "free": 0.15, "photographs": 0.37, "taught": 0.10}
REDUCED = 0.4  # share of windows of frames and free pictures that are cut larger and reduced, which makes them sharper
FRAME_ZOOM = (1.3, 2.2)
PHOTOGRAPH_ZOOM = (1.2, 4.0)  # large photographs are soft at their own size: always reduced
BOX = 0.8  # share reduced by box means, as the evaluation does; the rest bicubic with antialiasing
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


def photograph(path: Path) -> np.ndarray:
    """One of the photographs, checked to be the one that was trained on."""
    if not path.is_file():
        raise ConfigError(f"{path}: is missing; install Debian's package lomiri-wallpapers-16.04 (20.04.0)")
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(PHOTOGRAPHS[path.name]):
        raise ConfigError(f"{path}: is not the file of Debian's lomiri-wallpapers-16.04 (20.04.0)")
    return read(path)


def taught(folder: Path, scale: int) -> list[RawLrHr]:
    """Fused inputs and the teacher's references, of the frames that are not held out."""
    records = open_records(SourceSpec("pseudo_hr", folder, 1.0), scale=scale)
    if any(key.startswith(HELD_OUT) for key in records.keys):
        raise ConfigError(f"{folder}: has pictures of {HELD_OUT}, which is held out")
    return [records.read(number) for number in range(len(records.keys))]


class SuperResolutionData:
    """Training data for the loop (`esr_lefuse_jax.training.inputs.RunData`)."""

    needs_teacher = False
    notes: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict):
        """Reads the folders that `config.data.train` names; raises ConfigError for what is not there or another file."""
        self.config = config
        folders = config.data.train.split(",")
        if len(folders) > 3 or not all(folders):
            raise ConfigError(f"data.train {config.data.train!r}: give M3SVD[,PHOTOGRAPHS[,PSEUDO_HR]]")
        m3svd, photographs, pseudo_hr = [*map(Path, folders), None, None][:3]
        files = sorted((m3svd / "vi").glob("*.jpg"))
        if not files:
            raise ConfigError(f"{m3svd}: has no vi/*.jpg; give the folder of M3SVD's frames")
        free = [skimage_picture(name) for name in FREE_PICTURES]
        free.append(read(Path(matplotlib.get_data_path()) / PORTRAIT))
        self.pictures = {
            "frames": [read(f) for f in files if not f.name.startswith(HELD_OUT)],
            "free": free,
            "photographs": [photograph(photographs / name) for name in PHOTOGRAPHS] if photographs else [],
        }
        self.taught = taught(pseudo_hr, config.model.scale) if pseudo_hr else []
        weights = np.array([*FREE_PICTURES.values(), PORTRAIT_SHARE])
        self.free_shares = weights / weights.sum()
        there = {**self.pictures, "taught": self.taught}
        self.kinds = [kind for kind in SHARES if there[kind]]
        shares = np.array([SHARES[kind] for kind in self.kinds])
        self.shares = shares / shares.sum()
        self.examples = 20 * sum(map(len, there.values()))
        # Other windows, or windows of other files, are another run.
        known = hashlib.sha256(Path(__file__).read_bytes())
        known.update("\n".join(f.name for f in files).encode())
        for pair in self.taught:
            known.update(pair.lr.tobytes() + pair.hr.tobytes())
        self.fingerprint = f"sr-open-{'-'.join(self.kinds)}-{self.examples}-{known.hexdigest()[:12]}"
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
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        lr, hr = self._taught_window(rng) if kind == "taught" else (None, self._reference(kind, rng))
        turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        level = np.float32(rng.uniform(0.3, 1) if rng.random() < DIM else 1)

        def turned(picture: np.ndarray) -> np.ndarray:
            picture = np.rot90(picture.astype(np.float32) / 255 * level, turns)
            return np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)

        hr = turned(hr)
        if lr is not None:
            return {"lr": turned(lr), "hr": hr}
        return {"lr": reduce(hr, self.config.model.scale, box=bool(rng.random() < BOX)), "hr": hr}

    def _reference(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        """A window of a picture, uint8."""
        side = self.config.data.crop * self.config.model.scale
        of_kind = self.pictures[kind]
        picture = of_kind[rng.choice(len(of_kind), p=self.free_shares if kind == "free" else None)]
        cut = side
        if kind == "photographs":
            cut = round(side * np.exp(rng.uniform(*np.log(PHOTOGRAPH_ZOOM))))
        elif rng.random() < REDUCED:
            cut = round(side * rng.uniform(*FRAME_ZOOM))
        cut = min(cut, *picture.shape[:2])
        places = []
        for _ in range(2):
            top, left = (int(rng.integers(length - cut + 1)) for length in picture.shape[:2])
            window = picture[top : top + cut, left : left + cut]
            places.append((np.abs(np.diff(window[..., 1].astype(np.float32), axis=0)).mean(), window))
        # The livelier of two places: sky teaches little.
        window = max(places, key=lambda place: place[0])[1]
        if cut > side:
            window = np.asarray(Image.fromarray(window).resize((side, side), Image.Resampling.BOX))
        return window

    def _taught_window(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A window of a fused picture and the teacher's enlargement of it, uint8."""
        scale, side = self.config.model.scale, self.config.data.crop
        pair = self.taught[rng.integers(len(self.taught))]
        top, left = (int(rng.integers(length - side + 1)) for length in pair.lr.shape[:2])
        hr = pair.hr[scale * top : scale * (top + side), scale * left : scale * (left + side)]
        return pair.lr[top : top + side, left : left + side], hr
