"""Making a set of inputs and pseudo high-resolution references for stage 2.

Stage 1 fuses the pairs; the teacher enlarges the fused images four times, held to their low frequencies;
crops and turns multiply them. Every finished example is a pair of files in a work folder, so an interrupted
run goes on where it was; in the end they become a TFDS set (`lr_hr_pairs`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.data.transforms import Window, dihedral
from esr_lefuse_jax.errors import ConfigError, ImageError, OutputError, PairError
from esr_lefuse_jax.images import encode_image

TEACHER_SCALE = 4
WORK_FOLDER = "lr_hr_work"
# Rows and columns around a crop that the teacher is shown, so that crops look as if cut from whole frames.
CROP_MARGIN = 32


class Source(Protocol):
    """Fused images by name."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the images, unique."""

    def image(self, index: int) -> np.ndarray:
        """A fused image (H, W, 3) float32 in [0, 1]; raises ImageError when it cannot be made."""


@dataclass(frozen=True)
class Options:
    """What is to be made.

    Attributes:
        count: examples; as many from each image as needed, so it is met or passed by less than one each.
        crop: side of the input crops; 0 keeps whole frames.
        seed: of crops and turns.
        hr_format: `png`, or `jpg` (quality 97) for a fifth of the room.
    """

    count: int = 1100
    crop: int = 0
    seed: int = 0
    hr_format: str = "png"


@dataclass(frozen=True)
class Task:
    """One example: which image, which crop of it (None: all), which of the eight turns."""

    key: str
    index: int
    variant: int
    turn: int


@dataclass(frozen=True)
class Summary:
    """What came of a run: folder of the set, examples made now and found from before, failures by name."""

    folder: Path
    made: int
    found: int
    failed: list[tuple[str, str]]


def plan(names: Sequence[str], options: Options) -> list[Task]:
    """The examples to make: every image equally often, the first time of whole frames as it is.

    Args:
        names: of the images.
        options: see `Options`.

    Returns:
        Tasks grouped by image.
    """
    each, more = divmod(options.count, len(names))
    tasks = []
    for index, name in enumerate(names):
        turns = np.random.default_rng([options.seed, index]).permutation(np.arange(1, 8))
        for variant in range(each + (index < more)):
            # Whole frames: first as they are, then the seven turns; again from the start when there are more.
            turn = 0 if variant % 8 == 0 else int(turns[variant % 8 - 1])
            tasks.append(Task(f"{name}~{variant}", index, variant, turn))
    return tasks


def make_pseudo_hr(
    source: Source,
    teacher: Callable[[np.ndarray], np.ndarray],
    out_dir: str | os.PathLike,
    options: Options,
    identity: str,
    report: Callable[[int], None] = lambda count: None,
) -> Summary:
    """Makes the examples that are not there yet, then the set.

    Args:
        source: fused images.
        teacher: (H, W, 3) in [0, 1] to (4H, 4W, 3) in [0, 1], low frequencies kept.
        out_dir: the set goes to `out_dir/lr_hr_pairs/<version>`, unfinished work to `out_dir/lr_hr_work`.
        options: what to make.
        identity: changes with the weights and inputs; work of another identity is not mixed in.
        report: called with the number of examples that are ready after each step.

    Raises:
        ConfigError: the work folder holds examples of other options.
        OutputError: the folder cannot be written, or the set exists.
        PairError: no example could be made.
    """
    out_dir = Path(out_dir)
    work = out_dir / WORK_FOLDER
    if not source.names:
        raise PairError("no images to make references from")
    if (out_dir / "lr_hr_pairs").exists():
        raise OutputError(
            f"{out_dir / 'lr_hr_pairs'}: the set exists already: remove it or choose another folder"
        )
    tasks = plan(source.names, options)
    _claim(work, {"identity": identity, **asdict(options)})
    ready = [task for task in tasks if _files(work, task, options) is not None]
    report(len(ready))
    found, failed = len(ready), []
    missing: dict[int, list[Task]] = {}
    for task in tasks:
        if _files(work, task, options) is None:
            missing.setdefault(task.index, []).append(task)
    made = 0
    for index, group in missing.items():
        try:
            fused = source.image(index)
            for task, lr, hr in _examples(fused, group, teacher, options):
                _store(work, task, lr, hr, options)
                made += 1
                report(1)
        except ImageError as error:
            failed.append((source.names[index], str(error)))
    finished = [task for task in tasks if _files(work, task, options) is not None]
    if not finished:
        raise PairError(f"no example could be made; the first failure: {failed[0][1]}")
    folder = _write_set(out_dir, work, finished, options)
    shutil.rmtree(work, ignore_errors=True)
    return Summary(folder, made, found, failed)


def _examples(
    fused: np.ndarray, tasks: Sequence[Task], teacher: Callable[[np.ndarray], np.ndarray], options: Options
) -> Iterator[tuple[Task, np.ndarray, np.ndarray]]:
    if not options.crop:
        fused = _rounded(fused)
        hr = teacher(fused)  # once: turns of the result are as good as results of turns
        for task in tasks:
            yield task, dihedral(fused, task.turn), dihedral(hr, task.turn)
        return
    height, width = fused.shape[:2]
    if min(height, width) < options.crop:
        raise ImageError(
            f"{width}x{height} is smaller than the crop of {options.crop}: choose a smaller --crop"
        )
    for task in tasks:
        rng = np.random.default_rng([options.seed, task.index, task.variant])
        top, left = rng.integers(height - options.crop + 1), rng.integers(width - options.crop + 1)
        window = Window(int(top), int(left), options.crop, options.crop)
        outer = window.grown(CROP_MARGIN, height, width)
        inner = window.inside(outer)
        # The input as it will be stored, so that the reference belongs to exactly those values.
        region = _rounded(outer.of(fused))
        hr = inner.of(teacher(region), TEACHER_SCALE)
        turn = int(rng.integers(8))
        yield task, dihedral(inner.of(region), turn), dihedral(hr, turn)


def _rounded(image: np.ndarray) -> np.ndarray:
    return np.round(image * 255).astype(np.float32) / np.float32(255)


def _claim(work: Path, settings: dict) -> None:
    """Marks the work folder with what it is for, or checks the mark."""
    mark = work / "settings.json"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if mark.is_file():
            if json.loads(mark.read_text(encoding="utf-8")) != settings:
                raise ConfigError(f"{work}: unfinished work with other inputs, weights or options: remove it")
            return
    except OSError as error:
        raise OutputError(f"{work}: cannot be made: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{mark}: damaged: remove {work}") from error
    write_bytes(mark, json.dumps(settings).encode())


def _paths(work: Path, task: Task, options: Options) -> tuple[Path, Path]:
    # Names of images may hold slashes and anything else; files are named by a hash.
    name = hashlib.sha256(task.key.encode()).hexdigest()[:24]
    return work / f"{name}_lr.png", work / f"{name}_hr.{options.hr_format}"


def _files(work: Path, task: Task, options: Options) -> tuple[Path, Path] | None:
    paths = _paths(work, task, options)
    return paths if all(path.is_file() for path in paths) else None


def _store(work: Path, task: Task, lr: np.ndarray, hr: np.ndarray, options: Options) -> None:
    lr_path, hr_path = _paths(work, task, options)
    write_bytes(hr_path, encode_image(hr, hr_path.suffix, quality=97))
    write_bytes(lr_path, encode_image(lr, ".png"))


def _write_set(out_dir: Path, work: Path, tasks: Sequence[Task], options: Options) -> Path:
    # TFDS takes a second to import; refusals come before.
    from esr_lefuse_jax.data.tfds_builders import LrHrPairs, write_set

    def examples():
        for task in tasks:
            lr_path, hr_path = _paths(work, task, options)
            yield {"key": task.key, "lr": lr_path.read_bytes(), "hr": hr_path.read_bytes()}

    return write_set(LrHrPairs, {"train": examples}, out_dir)
