"""What is to be measured: methods with their images, sources and references, matched by stem up front."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from esr_lefuse_jax.errors import ConfigError, ImageError, PairError
from esr_lefuse_jax.images import read_header, read_infrared, read_visible
from esr_lefuse_jax.pairs import Pair, find_pairs, list_images

Baseline = Literal["bicubic4x", "lr", "gt"]
Folder = str | os.PathLike

# Subfolders by which one folder may hold both stages of a method.
_FUSED_NAMES = ("lr", "fused", "fused_lr", "lr_fused")
_ENLARGED_NAMES = ("hr", "sr", "4x", "x4")
_ENDINGS = re.compile(r"[_\-.](?:fused(?:_lr)?|lr|hr|sr|esr|pred|out|[234]x|x[234])$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Method:
    """One method: its name, and its images by stem, fused at the sources' size and enlarged."""

    name: str
    fused: Mapping[str, Path]
    enlarged: Mapping[str, Path]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything that one evaluation reads.

    Attributes:
      methods: what is compared, the main one first.
      sources: infrared-visible pairs by stem; empty when none are given.
      references: true high-resolution images by stem; empty unless the baseline is "gt".
      lr: what enlarged images were made from, for methods without fused images of their own.
      baseline: what PSNR, SSIM and VIF of enlarged images refer to; None for no such metrics.
      stems: all images, sorted.
      problems: one line for each file that cannot take part.
    """

    methods: tuple[Method, ...]
    sources: Mapping[str, Pair]
    references: Mapping[str, Path]
    lr: Mapping[str, Path]
    baseline: Baseline | None
    stems: tuple[str, ...]
    problems: tuple[str, ...]

    def common_stems(self, stage: str) -> tuple[str, ...]:
        """The stems that every method with images of this stage ("fused" or "enlarged") has."""
        folders = [images for method in self.methods if (images := getattr(method, stage))]
        return tuple(stem for stem in self.stems if folders and all(stem in images for images in folders))


def lr_path(inputs: Inputs, method: Method, stem: str) -> Path | None:
    """What an enlarged image was made from: the method's own fused image, or the shared one."""
    return method.fused.get(stem) or inputs.lr.get(stem) or inputs.methods[0].fused.get(stem)


def parse_baseline(words: Sequence[str] | None) -> tuple[Baseline | None, str | None]:
    """Reads the flag `bicubic4x | lr | gt DIR` as (baseline, folder).

    Raises:
      ConfigError: anything else.
    """
    match list(words or []):
        case []:
            return None, None
        case ["bicubic4x" | "bicubic"]:
            return "bicubic4x", None
        case ["lr"]:
            return "lr", None
        case ["gt", folder]:
            return "gt", folder
        case given:
            raise ConfigError(f"--gt_baseline {' '.join(given)}: give bicubic4x, lr, or gt DIR")


def parse_compare(items: Iterable[str]) -> list[tuple[str, str]]:
    """Reads `NAME=DIR` items.

    Raises:
      ConfigError: an item of another form, or a name given twice.
    """
    named: list[tuple[str, str]] = []
    for item in items:
        name, separator, folder = item.partition("=")
        if not (name and separator and folder):
            raise ConfigError(f"--compare {item}: give NAME=DIR")
        if name in (known for known, _ in named):
            raise ConfigError(f"--compare {item}: the name {name!r} is given twice")
        named.append((name, folder))
    return named


def method_name(folder: Folder) -> str:
    """What a method is called by its folder: the name, or the parent's for `.../hr`."""
    path = Path(folder).absolute()
    plain = path.name.lower() not in (*_FUSED_NAMES, *_ENLARGED_NAMES)
    return (path.name if plain else path.parent.name) or "prediction"


def beside(folder: Folder | None) -> Path | None:
    """The folder of fused images that inference writes beside its enlarged ones, if it is there."""
    if folder is None:
        return None
    path = Path(folder)
    neighbour = path.with_name(path.name + "_lr") if path.name else path
    return neighbour if path.name and neighbour.is_dir() else None


def gather(
    folders: Sequence[tuple[str, Folder]],
    *,
    ir_dir: Folder | None = None,
    vis_dir: Folder | None = None,
    lr_dir: Folder | None = None,
    baseline: Baseline | None = None,
    gt_dir: Folder | None = None,
) -> Inputs:
    """Finds and matches all images.

    Args:
      folders: (name, folder) of each method, the main one first. A folder holds images of one stage, or has
        subfolders such as `lr` and `hr` for both.
      ir_dir: infrared sources.
      vis_dir: visible sources.
      lr_dir: fused images that the enlarged ones were made from: those of the main method, and the reference
        of every other method that has none of its own.
      baseline: see `Inputs`.
      gt_dir: true high-resolution images, for the baseline "gt".

    Raises:
      PairError: a folder is missing, or nothing in it matches.
      ConfigError: only one of the two source folders.
    """
    if (ir_dir is None) != (vis_dir is None):
        raise ConfigError("--ir_dir and --vis_dir belong together: give both or neither")
    problems: list[str] = []
    sources: dict[str, Pair] = {}
    if ir_dir is not None and vis_dir is not None:
        pairs, found = find_pairs(ir_dir, vis_dir)
        problems += found
        sources = {pair.stem: pair for pair in pairs}
        if not sources:
            raise PairError(f"{ir_dir} and {vis_dir}: no pair of infrared and visible images")
    references = _index(gt_dir, problems) if gt_dir else {}
    lr = _index(lr_dir, problems) if lr_dir else {}
    wanted: Mapping[str, object] = sources or references or lr
    lr = _aligned(lr, wanted, lr_dir)
    originals = {**lr, **{stem: pair.visible for stem, pair in sources.items()}}
    methods: list[Method] = []
    for name, folder in folders:
        fused, enlarged = _stages(Path(folder), wanted, originals, baseline, problems)
        if not fused and not enlarged:
            raise PairError(f"{folder}: no images")
        if not methods and not fused:
            fused = lr
        wanted = wanted or enlarged or fused
        methods.append(Method(name, fused, enlarged))
    stems = sorted({stem for method in methods for stem in (*method.fused, *method.enlarged)})
    problems += _missing(methods, stems, sources, references)
    return Inputs(tuple(methods), sources, references, lr, baseline, tuple(stems), tuple(problems))


def read_levels(path: Path) -> np.ndarray:
    """Reads a colour or gray image as (H, W, 3) uint8."""
    return np.rint(read_visible(path) * np.float32(255)).astype(np.uint8)


def read_infrared_levels(path: Path) -> np.ndarray:
    """Reads an infrared image as (H, W) uint8, scaled as the network sees it."""
    return np.rint(read_infrared(path) * np.float32(255)).astype(np.uint8)


def _index(folder: Folder, problems: list[str]) -> dict[str, Path]:
    """Images of a folder by stem."""
    files, left_out = list_images(folder)
    problems += [line for line in left_out if not line.endswith("not an image file")]
    index: dict[str, Path] = {}
    for path in files:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in index:
            problems.append(
                f"{path}: a second image of the stem {stem!r}: only {index[stem].name} is measured"
            )
        else:
            index[stem] = path
    return index


def _aligned(index: dict[str, Path], wanted: Mapping[str, object], folder: Folder | None) -> dict[str, Path]:
    """Renames stems that only differ from the wanted ones by an ending such as `_fused` or `_4x`."""
    if not index or not wanted or index.keys() & wanted.keys():
        return index
    plain = {_ENDINGS.sub("", stem): stem for stem in wanted}
    renamed = {plain.get(_ENDINGS.sub("", stem)): path for stem, path in index.items()}
    renamed.pop(None, None)
    if not renamed:
        examples = f"{next(iter(index))!r} here, {next(iter(wanted))!r} there"
        raise PairError(f"{folder}: no name matches the other folders ({examples})")
    return {stem: path for stem, path in renamed.items() if stem is not None}


def _stages(
    folder: Path,
    wanted: Mapping[str, object],
    originals: Mapping[str, Path],
    baseline: Baseline | None,
    problems: list[str],
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Finds (fused, enlarged) images of a method."""
    if not folder.is_dir():
        raise PairError(f"{folder}: no such folder")
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    fused_folder = next((inside[name] for name in _FUSED_NAMES if name in inside), None)
    enlarged_folder = next((inside[name] for name in _ENLARGED_NAMES if name in inside), None)
    if enlarged_folder:
        fused = _aligned(_index(fused_folder, problems), wanted, fused_folder) if fused_folder else {}
        return fused, _aligned(_index(enlarged_folder, problems), wanted or fused, enlarged_folder)
    if fused_folder:
        fused = _aligned(_index(fused_folder, problems), wanted, fused_folder)
        rest = {
            stem: path
            for stem, path in _index(folder, problems).items()
            if not path.is_relative_to(fused_folder)
        }
        return fused, _aligned(rest, wanted or fused, folder)
    images = _aligned(_index(folder, problems), wanted, folder)
    if _fused_sized(images, originals, baseline):
        return images, {}
    return {}, images


def _fused_sized(
    images: Mapping[str, Path], originals: Mapping[str, Path], baseline: Baseline | None
) -> bool:
    """Whether images have the sources' size; with none to compare, whether no baseline asks for more."""
    for stem in images.keys() & originals.keys():
        try:
            ours, theirs = read_header(images[stem]), read_header(originals[stem])
        except ImageError:
            continue  # a damaged file says nothing here; it is named when its turn comes
        return (ours.height, ours.width) == (theirs.height, theirs.width)
    return baseline is None


def _missing(
    methods: Sequence[Method],
    stems: Sequence[str],
    sources: Mapping[str, object],
    references: Mapping[str, object],
) -> list[str]:
    lines = []
    for method in methods:
        for stage, images in (("fused", method.fused), ("enlarged", method.enlarged)):
            absent = [stem for stem in stems if images and stem not in images]
            lines += [f"{method.name}: no {stage} image of {stem}" for stem in absent]
    lines += [f"{stem}: not among the sources" for stem in stems if sources and stem not in sources]
    lines += [f"{stem}: no reference image" for stem in stems if references and stem not in references]
    if idle := sorted(sources.keys() - set(stems)):
        named = ", ".join(idle[:5]) + (", ..." if len(idle) > 5 else "")
        lines.append(f"{len(idle)} source pairs that no method has: {named}")
    return lines
