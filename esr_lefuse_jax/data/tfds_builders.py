"""TFDS sets of pairs and of input / reference pictures, written as array_record without TensorFlow.

Features are pictures as encoded bytes and a `key`; anybody can read the sets with `builder.as_data_source()`.
Examples keep the order in which they are given; their keys are also listed in `keys.json` beside the set.
"""

import contextlib
import functools
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.data.prepared import KEYS_FILE
from esr_lefuse_jax.errors import ImageError, OutputError
from esr_lefuse_jax.images import IrRange, encode_image, read_header, read_infrared, read_visible
from esr_lefuse_jax.layouts import Layout
from esr_lefuse_jax.pairs import Pair, find_pairs

# Encoded pictures by feature name, and the key.
Example = Mapping[str, bytes | str]
# For each split, a function that yields its examples.
Splits = Mapping[str, Callable[[], Iterable[Example]]]


class _PictureSet(tfds.core.GeneratorBasedBuilder):
    """A set of encoded pictures; concrete sets only differ in their features and what they are."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    PICTURES: Mapping[str, int] = {}
    DESCRIPTION = ""
    CITATION = ""

    def __init__(self, *, splits: Splits | None = None, infrared_channels: int = 1, **options):
        self._given = splits or {}
        self._channels = {**self.PICTURES, "infrared": infrared_channels}
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            name: tfds.features.Image(shape=(None, None, self._channels[name])) for name in self.PICTURES
        }
        return self.dataset_info_from_configs(
            description=self.DESCRIPTION,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict({"key": tfds.features.Text(), **features}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded: the user has the pictures
        return {split: self._numbered(make) for split, make in self._given.items()}

    def _generate_examples(self) -> Iterator:
        raise AssertionError("the splits bring their own generators")

    @staticmethod
    def _numbered(make: Callable[[], Iterable[Example]]) -> Iterator[tuple[int, dict]]:
        for index, example in enumerate(make()):
            yield index, dict(example)


class FusionPairs(_PictureSet):
    """Aligned infrared and visible pairs from any folders."""

    PICTURES = {"visible": 3, "infrared": 1}  # noqa: RUF012
    DESCRIPTION = "Aligned infrared and visible image pairs."


class Llvip(FusionPairs):
    """LLVIP, as downloaded."""

    DESCRIPTION = "LLVIP: aligned visible and infrared night street pairs; non-commercial research use."
    CITATION = "Jia et al., LLVIP: A Visible-infrared Paired Dataset for Low-light Vision, ICCVW 2021"


class M3fd(FusionPairs):
    """M3FD, as downloaded."""

    DESCRIPTION = "M3FD: aligned visible and infrared pairs of roads, campus and seaside."
    CITATION = "Liu et al., Target-aware Dual Adversarial Learning (TarDAL), CVPR 2022"


class CleanFusionPairs(_PictureSet):
    """Pairs with the well-lit truth of the visible picture."""

    PICTURES = {"visible": 3, "infrared": 1, "clean": 3}  # noqa: RUF012
    DESCRIPTION = "Aligned infrared and visible night pairs with the well-lit visible truth."


class LrHrPairs(_PictureSet):
    """Inputs and four times larger references for super-resolution."""

    PICTURES = {"lr": 3, "hr": 3}  # noqa: RUF012
    DESCRIPTION = "Fused pictures and pseudo high-resolution references made from them by Real-ESRGAN."


PAIR_BUILDERS: dict[str, type[_PictureSet]] = {"llvip": Llvip, "m3fd": M3fd, "fusion_pairs": FusionPairs}


def write_set(
    builder_class: type[_PictureSet],
    splits: Splits,
    data_dir: str | os.PathLike,
    *,
    infrared_channels: int = 1,
) -> Path:
    """Writes a set below `data_dir`; TFDS moves it into place only when it is complete. Returns its folder.

    Args:
        builder_class: which set.
        splits: for each split a function that yields examples: a `key` and encoded pictures.
        data_dir: folder of sets.
        infrared_channels: of the encoded infrared pictures.

    Raises:
        OutputError: the folder cannot be written, or holds this set already.
    """
    keys: dict[str, list[str]] = {split: [] for split in splits}

    def listed(split: str, make: Callable[[], Iterable[Example]]) -> Callable[[], Iterator[Example]]:
        def generate():
            for example in make():
                keys[split].append(str(example["key"]))
                yield example

        return generate

    try:
        builder = builder_class(
            splits={split: listed(split, make) for split, make in splits.items()},
            data_dir=os.fspath(data_dir),
            infrared_channels=infrared_channels,
        )
        folder = Path(builder.data_dir)
        if folder.exists():
            raise OutputError(f"{folder}: the set exists already: remove it or choose another folder")
        tfds.disable_progress_bar()  # the caller shows its own
        # TFDS wants a folder for downloads, which this set has none of; it must not appear beside the data.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise OutputError(f"{data_dir}: cannot write the set: {error.strerror or error}") from error
    write_bytes(folder / KEYS_FILE, json.dumps(keys, ensure_ascii=False).encode())
    return folder


class PairExamples:
    """The examples of folders of pairs, to be written by `write_set`.

    Files that are 8-bit already are taken byte for byte; others (16-bit infrared, EXIF-turned, CMYK, ...) are
    re-encoded as 8-bit PNG, read as `images` documents. A pair that cannot be decoded is left out.

    Attributes:
        count: pairs found.
        infrared_channels: 3 when the infrared files are colour files, else 1.
        splits: for `write_set`; pairs of no split are in `train`.
    """

    def __init__(
        self,
        layouts: Iterable[Layout],
        ir_range: IrRange = "auto",
        on_pair: Callable[[Pair], None] = lambda pair: None,
        on_problem: Callable[[str], None] = lambda problem: None,
    ):
        """Pairs the files.

        Args:
            layouts: folders, with their splits.
            ir_range: scaling of infrared with more than 8 bits.
            on_pair: called after each pair that was encoded.
            on_problem: called with one line for each file that does not pair or decode.
        """
        pairs: dict[str, list[Pair]] = {}
        for layout in layouts:
            found, problems = find_pairs(layout.ir_dir, layout.vis_dir)
            pairs.setdefault(layout.split or "train", []).extend(found)
            for problem in problems:
                on_problem(problem)
        self._ir_range, self._on_pair, self._on_problem = ir_range, on_pair, on_problem
        self.count = sum(map(len, pairs.values()))
        colour = any(read_header(found[0].infrared).channels == 3 for found in pairs.values() if found)
        self.infrared_channels = 3 if colour else 1
        self.splits: Splits = {
            split: functools.partial(self._encode, found) for split, found in pairs.items() if found
        }

    def _encode(self, pairs: Iterable[Pair]) -> Iterator[Example]:
        for pair in pairs:
            try:
                visible, infrared = self._visible(pair.visible), self._infrared(pair.infrared)
            except ImageError as error:
                self._on_problem(str(error))
                continue
            yield {"key": pair.stem, "visible": visible, "infrared": infrared}
            self._on_pair(pair)

    def _visible(self, path: Path) -> bytes:
        picture = read_visible(path)  # decoded in any case: a damaged file must not enter the set
        return path.read_bytes() if _passes(path, 3) else encode_image(picture, ".png")

    def _infrared(self, path: Path) -> bytes:
        picture = read_infrared(path, ir_range=self._ir_range)
        if not isinstance(self._ir_range, tuple) and _passes(path, self.infrared_channels):
            return path.read_bytes()
        if self.infrared_channels == 3:
            picture = np.repeat(picture[..., None], 3, axis=-1)
        return encode_image(picture, ".png")


def _passes(path: Path, channels: int) -> bool:
    header = read_header(path)
    simple = header.format in ("PNG", "JPEG") and header.orientation == 1
    return simple and header.bits == 8 and header.channels == channels
