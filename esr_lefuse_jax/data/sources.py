"""Where training data comes from: folders of pairs, folders of pictures, prepared TFDS sets, and their split.

A source is written `[KIND:]PATH[@WEIGHT]`, several are separated by commas. For fusion and joint training
PATH is a folder of pairs (`ir/` and `vi/`, or LLVIP, M3FD, MSRS as downloaded; a third folder `clean/` with
well-lit truth is used when there is one) or a prepared set. For super-resolution KIND is one of

* `photo`: any folder of sharp pictures; they are the references, their inputs are made from them;
* `self`: fused pictures, each its own reference, its input is its bicubic reduction;
* `teacher`: fused pictures as inputs; the teacher makes the references during training;
* `pseudo_hr`: a prepared set of inputs and references.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from esr_lefuse_jax.data import prepared
from esr_lefuse_jax.errors import ConfigError, ImageError, PairError
from esr_lefuse_jax.image_writing import quantise
from esr_lefuse_jax.images import IMAGE_SUFFIXES, IrRange, read_infrared, read_visible
from esr_lefuse_jax.layouts import Layout, find_layouts
from esr_lefuse_jax.pairs import Pair, find_pairs, list_images

SR_KINDS = ("photo", "self", "teacher", "pseudo_hr")
CLEAN_FOLDER = "clean"


@dataclass(frozen=True)
class SourceSpec:
    """One source as the user wrote it; `kind` is "pairs" for fusion and joint training."""

    kind: str
    path: Path
    weight: float


def parse_sources(text: str, stage: str) -> list[SourceSpec]:
    """Reads `[KIND:]PATH[@WEIGHT],...`; raises ConfigError that names the part that is wrong."""
    specs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        body, weight = part, 1.0
        head, at, tail = part.rpartition("@")
        if at:
            with contextlib.suppress(ValueError):  # an @ in the path
                body, weight = head, float(tail)
        if not weight > 0:
            raise ConfigError(f"data source {part!r}: the weight must be above 0")
        kind = "pairs"
        if stage == "sr":
            kind, colon, body_after = body.partition(":")
            if colon and kind in SR_KINDS:
                body = body_after
            elif prepared.find(body) is not None:
                kind = "pseudo_hr"
            else:
                raise ConfigError(
                    f"data source {part!r}: start with one of {', '.join(k + ':' for k in SR_KINDS)}"
                )
        if not body:
            raise ConfigError(f"data source {part!r} names no folder")
        specs.append(SourceSpec(kind, Path(body).expanduser(), weight))
    if not specs:
        raise ConfigError("no data source given: name a folder")
    return specs


class RawPair(NamedTuple):
    """A pair as read: visible and clean uint8 (H, W, 3), infrared float32 (H, W) in [0, 1]."""

    visible: np.ndarray
    infrared: np.ndarray
    clean: np.ndarray | None = None


class RawLrHr(NamedTuple):
    """An input and its reference, uint8 (h, w, 3) and (scale h, scale w, 3)."""

    lr: np.ndarray
    hr: np.ndarray


class Records(Protocol):
    """Examples of one source; keys are stable and unique in it."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the examples."""

    def read(self, index: int):
        """Decodes one example; raises ImageError that names the file."""


class PairFolder:
    """Pairs in folders; `problems` are the lines about files that did not pair."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        keys: Sequence[str],
        ir_range: IrRange = "auto",
        problems: Sequence[str] = (),
    ):
        self.pairs, self.keys, self.ir_range = list(pairs), list(keys), ir_range
        self.problems = list(problems)

    def read(self, index: int) -> RawPair:
        """Decodes a pair and its clean picture, if there is one."""
        pair = self.pairs[index]
        visible = _levels(pair.visible)
        infrared = read_infrared(pair.infrared, ir_range=self.ir_range)
        if visible.shape[:2] != infrared.shape:
            raise ImageError(f"{pair.visible}: size differs from {pair.infrared}: align the pair")
        clean = clean_partner(pair)
        if clean is None:
            return RawPair(visible, infrared)
        truth = _levels(clean)
        if truth.shape != visible.shape:
            raise ImageError(f"{clean}: size differs from {pair.visible}: align the two")
        return RawPair(visible, infrared, truth)


class PictureFolder:
    """Pictures in a folder."""

    def __init__(self, files: Sequence[Path], keys: Sequence[str]):
        self.files, self.keys = list(files), list(keys)

    def read(self, index: int) -> np.ndarray:
        """Decodes one picture to uint8 (H, W, 3)."""
        return _levels(self.files[index])


class PreparedPairs:
    """Pairs of a prepared set."""

    def __init__(self, table: prepared.Table):
        self.table, self.keys = table, table.keys

    def read(self, index: int) -> RawPair:
        """Decodes a pair."""
        row, name = self.table.row(index), self.table.name(index)
        clean = row.get("clean") or None
        return RawPair(
            quantise(read_visible(row["visible"], name=name)),
            read_infrared(row["infrared"], name=name),
            None if clean is None else quantise(read_visible(clean, name=name)),
        )


class PreparedLrHr:
    """Inputs and references of a prepared set."""

    def __init__(self, table: prepared.Table, scale: int):
        self.table, self.keys, self.scale = table, table.keys, scale

    def read(self, index: int) -> RawLrHr:
        """Decodes an input and its reference."""
        row, name = self.table.row(index), self.table.name(index)
        lr, hr = (quantise(read_visible(row[part], name=f"{name} ({part})")) for part in ("lr", "hr"))
        if hr.shape[:2] != (self.scale * lr.shape[0], self.scale * lr.shape[1]):
            raise ImageError(f"{name}: the reference is not {self.scale} times as large as the input")
        return RawLrHr(lr, hr)


class Subset:
    """Some records of another, in the given order."""

    def __init__(self, records: Records, indices: Sequence[int]):
        self.records, self.indices = records, list(indices)
        self.keys = [records.keys[i] for i in self.indices]

    def read(self, index: int):
        """Decodes one example."""
        return self.records.read(self.indices[index])


def open_records(
    spec: SourceSpec, *, for_validation: bool = False, scale: int = 4, ir_range: IrRange = "auto"
) -> Records:
    """Opens a source.

    Where a set comes with splits, training takes `train`; a source that is named for validation gives
    `validation`, else `test`, else everything.

    Raises:
        ConfigError, PairError: there is no such folder, it holds nothing, or it is of another kind.
    """
    folder = prepared.find(spec.path)
    if folder is not None:
        table = prepared.Table(folder, for_validation=for_validation)
        wanted = {"pairs": "visible", "pseudo_hr": "hr"}.get(spec.kind)
        if wanted is None or wanted not in table.features:
            raise ConfigError(
                f"{spec.path}: this prepared set holds {', '.join(table.features)}: not for {spec.kind}"
            )
        return PreparedPairs(table) if spec.kind == "pairs" else PreparedLrHr(table, scale)
    if spec.kind == "pseudo_hr":
        raise ConfigError(f"{spec.path}: holds no prepared set (dataset_info.json): run make-pseudo-hr first")
    if spec.kind == "pairs":
        return _open_pairs(spec.path, for_validation, ir_range)
    files, _ = list_images(spec.path)
    if not files:
        raise PairError(f"{spec.path}: holds no images")
    return PictureFolder(files, [path.relative_to(spec.path).as_posix() for path in files])


def _open_pairs(root: Path, for_validation: bool, ir_range: IrRange) -> PairFolder:
    layouts = choose_split(find_layouts(root), for_validation)
    pairs, keys, problems = [], [], []
    for layout in layouts:
        found, more = find_pairs(layout.ir_dir, layout.vis_dir, check_headers=False)
        prefix = os.path.relpath(layout.vis_dir, root)
        pairs += found
        keys += [f"{prefix}/{pair.stem}" for pair in found]
        problems += more
    if not pairs:
        first = f" ({len(problems)} problems, the first: {problems[0]})" if problems else ""
        raise PairError(f"{root}: no infrared file matches a visible one{first}")
    return PairFolder(pairs, keys, ir_range, problems)


def choose_split(layouts: Sequence[Layout], for_validation: bool) -> list[Layout]:
    """The layouts of the split that training (or validation) uses; all when there are no splits."""
    order = ("validation", "test") if for_validation else ("train",)
    for split in order:
        chosen = [layout for layout in layouts if layout.split == split]
        if chosen:
            return chosen + [layout for layout in layouts if layout.split == "" and not for_validation]
    return list(layouts)


def clean_partner(pair: Pair) -> Path | None:
    """The well-lit picture in the folder `clean` beside the pair's visible folder, if there is one."""
    parents = Path(pair.stem).parent.parts
    folder = pair.visible.parents[len(parents)].parent / CLEAN_FOLDER
    if not folder.is_dir():
        return None
    candidates = (folder / f"{pair.stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def split_by_key(keys: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    """Divides examples into training and validation by a hash of their keys.

    Adding or removing files moves no other file. Sets so small that chance leaves a side empty lend it the
    example with the lowest (or highest) hash.

    Args:
        keys: names of the examples.
        share: expected share of validation, in [0, 1).

    Returns:
        Indices for training and for validation, each in the order of the hashes.
    """
    hashes = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 for key in keys]
    order = sorted(range(len(keys)), key=lambda i: (hashes[i], keys[i]))
    count = sum(value < share for value in hashes)
    if share > 0 and len(keys) > 1:
        count = min(max(count, 1), len(keys) - 1)
    return order[count:], order[:count]


def _levels(path: Path) -> np.ndarray:
    return quantise(read_visible(path))
