"""From decoded pictures to what a network is trained or evaluated on.

A maker turns raw records into dicts of float32 arrays (H, W, C) in [0, 1]:

* fusion and joint: `visible` RGB, `infrared`, `enhanced` E and `target` T (see `targets`);
* super-resolution: `lr` RGB and `hr` RGB, or `lr` alone where the teacher makes the reference. In mixtures
  with the teacher `from_teacher` (a scalar) is 1 for its examples, whose `hr` is only a placeholder.

`train` gives a random crop, `whole` the whole picture, the same at every call.
"""

import numpy as np

from esr_lefuse_jax.data import targets
from esr_lefuse_jax.data.darken import WELL_LIT, darken
from esr_lefuse_jax.data.degrade import downscale_photo
from esr_lefuse_jax.data.sources import RawLrHr, RawPair
from esr_lefuse_jax.data.transforms import Window, at_least, dihedral, random_window

Example = dict[str, np.ndarray]

# Side of the part of a picture that the teacher enlarges in evaluation: whole frames would cost minutes.
TEACHER_SIDE = 128


class PairMaker:
    """Fusion examples: sources, E and T."""

    def __init__(self, crop: int, *, augment: bool = True, darken_share: float = 0.0):
        """Sets how examples are made.

        Args:
            crop: side of the training crop.
            augment: flips and quarter turns.
            darken_share: share of the well-lit frames that are darkened, with the frame itself as E.
        """
        self.crop, self.augment, self.darken_share = crop, augment, darken_share

    def train(self, raw: RawPair, rng: np.random.Generator) -> Example:
        """A random crop of a pair."""
        arrays = [at_least(array, self.crop) for array in raw if array is not None]
        raw = RawPair(*arrays)
        window = random_window(raw.infrared, self.crop, rng)
        example = self._make(raw, window, rng)
        if not self.augment:
            return example
        turn = int(rng.integers(8))
        return {name: dihedral(array, turn) for name, array in example.items()}

    def whole(self, raw: RawPair, rng: np.random.Generator) -> Example:
        """The whole pair; `rng` decides on darkening and must be fixed for the pair."""
        height, width = raw.infrared.shape
        return self._make(raw, Window(0, 0, height, width), rng)

    def _make(self, raw: RawPair, window: Window, rng: np.random.Generator) -> Example:
        height, width = raw.infrared.shape
        # Filters of the targets look beyond the crop: the margin shows them what the whole picture would.
        outer = window.grown(targets.CONTEXT, height, width)
        inner = window.inside(outer)
        visible, infrared = _floats(outer.of(raw.visible)), outer.of(raw.infrared)
        if raw.clean is not None:
            enhanced = targets.luminance(_floats(outer.of(raw.clean)))
        else:
            tone = targets.measure_tone(_luminance_of_levels(raw.visible))
            y = targets.luminance(visible)
            if rng.random() < self.darken_share and tone.mean >= WELL_LIT:
                visible, enhanced = darken(visible, rng), y
            else:
                enhanced = targets.enhance(y, tone)
        target = targets.merge(enhanced, infrared)
        parts = {"infrared": infrared, "enhanced": enhanced, "target": target}
        example = {name: inner.of(array)[..., None] for name, array in parts.items()}
        return {name: _ready(array) for name, array in {"visible": inner.of(visible), **example}.items()}


class PhotoMaker:
    """Super-resolution examples from sharp pictures, whose inputs are made from them."""

    def __init__(self, crop: int, scale: int, *, augment: bool = True, degraded_share: float = 0.0):
        """Sets how examples are made.

        Args:
            crop: side of the input crop.
            scale: how many times larger the reference is.
            augment: flips and quarter turns.
            degraded_share: share whose input also went through blur, noise and JPEG.
        """
        self.crop, self.scale = crop, scale
        self.augment, self.degraded_share = augment, degraded_share

    def train(self, raw: np.ndarray, rng: np.random.Generator) -> Example:
        """A random crop of a picture."""
        side = self.crop * self.scale
        raw = at_least(raw, side)
        hr = _floats(random_window(raw, side, rng).of(raw))
        if self.augment:
            hr = dihedral(hr, int(rng.integers(8)))
        degraded = rng.random() < self.degraded_share
        return {"lr": _ready(downscale_photo(hr, self.scale, rng if degraded else None)), "hr": _ready(hr)}

    def whole(self, raw: np.ndarray, rng: np.random.Generator) -> Example:
        """The whole picture, less the rows and columns beyond a multiple of the scale; bicubic input."""
        del rng
        raw = at_least(raw, 8 * self.scale)
        height, width = (length // self.scale * self.scale for length in raw.shape[:2])
        hr = _floats(raw[:height, :width])
        return {"lr": _ready(downscale_photo(hr, self.scale)), "hr": _ready(hr)}


class TeacherMaker:
    """Super-resolution inputs that the teacher enlarges."""

    def __init__(self, crop: int, scale: int, *, augment: bool = True):
        """Sets the side of the input crop, the scale of the placeholder, and flips and quarter turns."""
        self.crop, self.scale, self.augment = crop, scale, augment

    def train(self, raw: np.ndarray, rng: np.random.Generator) -> Example:
        """A random crop of a picture."""
        raw = at_least(raw, self.crop)
        lr = _floats(random_window(raw, self.crop, rng).of(raw))
        return {"lr": dihedral(lr, int(rng.integers(8))) if self.augment else _ready(lr)}

    def whole(self, raw: np.ndarray, rng: np.random.Generator) -> Example:
        """The centre of a picture, at most `TEACHER_SIDE` pixels wide and high."""
        del rng
        height, width = (min(length, TEACHER_SIDE) for length in raw.shape[:2])
        top, left = (raw.shape[0] - height) // 2, (raw.shape[1] - width) // 2
        return {"lr": _ready(_floats(Window(top, left, height, width).of(raw)))}


class LrHrMaker:
    """Super-resolution examples whose inputs and references are both given."""

    def __init__(self, crop: int, scale: int, *, augment: bool = True):
        """Sets the side of the input crop, the scale, and flips and quarter turns."""
        self.crop, self.scale, self.augment = crop, scale, augment

    def train(self, raw: RawLrHr, rng: np.random.Generator) -> Example:
        """A random crop of both, at the same place."""
        lr, hr = at_least(raw.lr, self.crop), at_least(raw.hr, self.crop * self.scale)
        window = random_window(lr, self.crop, rng)
        turn = int(rng.integers(8)) if self.augment else 0
        return {
            "lr": dihedral(_floats(window.of(lr)), turn),
            "hr": dihedral(_floats(window.of(hr, self.scale)), turn),
        }

    def whole(self, raw: RawLrHr, rng: np.random.Generator) -> Example:
        """Both, whole."""
        del rng
        return {"lr": _ready(_floats(raw.lr)), "hr": _ready(_floats(raw.hr))}


def with_placeholder(example: Example, scale: int, from_teacher: bool) -> Example:
    """Gives examples of a mixture with the teacher the same entries."""
    height, width, channels = example["lr"].shape
    hr = example.get("hr")
    if hr is None:
        hr = np.zeros((height * scale, width * scale, channels), np.float32)
    return {"lr": example["lr"], "hr": hr, "from_teacher": np.asarray(from_teacher, np.float32)}


Maker = PairMaker | PhotoMaker | TeacherMaker | LrHrMaker


def _floats(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / np.float32(255)


def _luminance_of_levels(levels: np.ndarray) -> np.ndarray:
    # The statistics need no more than a sample of the pixels.
    step = max(1, int(np.sqrt(levels.shape[0] * levels.shape[1] / 80_000)))
    return targets.luminance(_floats(levels[::step, ::step]))


def _ready(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)
