"""Folders of pairs through the pipeline: reading, computing and writing overlap, one bad pair stops nothing."""

import concurrent.futures as futures
import contextlib
import dataclasses
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import ConfigError, EsrLefuseError, ImageError, OutputError
from esr_lefuse_jax.image_writing import Rounding
from esr_lefuse_jax.images import IrRange, read_header, read_infrared, read_visible, write_image
from esr_lefuse_jax.inference.pipeline import Pipeline, Result
from esr_lefuse_jax.pairs import Pair

MANIFEST = ".esr_lefuse.json"
_READERS = 2
_WRITERS = 2


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """What to write and how.

    Attributes:
        out_dir: folder of the main result: the enlarged images, or the fused ones without super-resolution.
        lr_dir: folder of the fused images before enlargement; None writes none.
        suffix: kind of file, `.png`, `.jpg` or `.tif`.
        truncate: round down as the original's script does, instead of to the nearest level.
        gray: write one channel.
        resume: leave out pairs whose files are there already.
        batch_size: pairs of one size that run together; None chooses by the device.
        ir_range: see `images.read_infrared`.
        max_pixels: refuse larger images; None for the default of `images`.
    """

    out_dir: Path
    lr_dir: Path | None = None
    suffix: str = ".png"
    truncate: bool = False
    gray: bool = False
    resume: bool = False
    batch_size: int | None = None
    ir_range: IrRange = "auto"
    max_pixels: int | None = None


@dataclasses.dataclass
class Summary:
    """What became of the pairs.

    Attributes:
        done: stems written in this run.
        skipped: stems that were there already.
        failed: stem and the reason, one line.
        seconds: time from the first read to the last write.
    """

    done: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Loaded:
    pair: Pair
    visible: np.ndarray
    infrared: np.ndarray


def run_folder(
    pipelines: Sequence[Pipeline],
    pairs: Sequence[Pair],
    options: FolderOptions,
    settings: dict[str, str] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Summary:
    """Runs pairs through the pipelines, one for each device, and writes the results.

    Args:
        pipelines: equal pipelines on different devices.
        pairs: what to fuse.
        options: what to write and how.
        settings: names the weights and options that determine the results; kept in the output folder, so that
            a resumed run cannot mix two settings.
        progress: called with the number of pairs that just finished.

    Raises:
        OutputError: the output folder cannot be written to, or the disk is full; no partial file remains.
        ConfigError: `resume`, but the folder holds results of other settings.
    """
    started = time.monotonic()
    folders = [folder for folder in (options.out_dir, options.lr_dir) if folder is not None]
    _open_outputs(folders, options, settings or {})
    summary = Summary()
    todo = []
    for pair in pairs:
        if options.resume and all(path.is_file() for path in _paths(pair, options)):
            summary.skipped.append(pair.stem)
        else:
            todo.append(pair)
    progress(len(summary.skipped))

    sizes = []
    for pair in todo:
        with contextlib.suppress(ImageError):  # reported when the pair itself is read
            header = read_header(pair.visible, max_pixels=options.max_pixels)
            sizes.append((header.height, header.width))
    for pipeline in pipelines:
        pipeline.prepare_for(sizes)

    def finished(pair: Pair, error: EsrLefuseError | None) -> None:
        if error is None:
            summary.done.append(pair.stem)
        else:
            summary.failed.append((pair.stem, str(error)))
        progress(1)

    batch_size = options.batch_size or (1 if pipelines[0].device.platform == "cpu" else 8)
    with (
        futures.ThreadPoolExecutor(_READERS, "read") as readers,
        futures.ThreadPoolExecutor(len(pipelines), "compute") as computers,
        futures.ThreadPoolExecutor(_WRITERS, "write") as writers,
    ):
        writing: deque[tuple[Pair, futures.Future]] = deque()
        computing: deque[tuple[list[_Loaded], futures.Future]] = deque()
        free = deque(pipelines)

        def settle_writes(at_most: int) -> None:
            while len(writing) > at_most or (writing and writing[0][1].done()):
                pair, future = writing.popleft()
                try:
                    future.result()
                except ImageError as error:  # values that are no image
                    finished(pair, error)
                else:
                    finished(pair, None)

        def settle_computations(at_most: int) -> None:
            while len(computing) > at_most:
                batch, future = computing.popleft()
                while not future.done():  # meanwhile, what is written counts as soon as it is
                    first_write = [writing[0][1]] if writing else []
                    futures.wait([future, *first_write], return_when=futures.FIRST_COMPLETED)
                    settle_writes(2 * _WRITERS)
                pipeline, results = future.result()
                free.append(pipeline)
                if isinstance(results, ImageError):
                    for loaded in batch:
                        finished(loaded.pair, results)
                    continue
                for loaded, result in zip(batch, results, strict=True):
                    writing.append((loaded.pair, writers.submit(_write, loaded.pair, result, options)))
                settle_writes(2 * _WRITERS)

        try:
            for batch in _batches(_read_ahead(readers, todo, options, finished, 2 * batch_size), batch_size):
                settle_computations(len(pipelines) - 1)
                computing.append((batch, computers.submit(_compute, free.popleft(), batch, options)))
            settle_computations(0)
            settle_writes(0)
        except BaseException:
            for _, future in (*writing, *computing):
                future.cancel()
            raise
    summary.seconds = time.monotonic() - started
    return summary


def _compute(
    pipeline: Pipeline, batch: list[_Loaded], options: FolderOptions
) -> tuple[Pipeline, list[Result] | ImageError]:
    rounding = _rounding(options)
    try:
        if len(batch) == 1:
            return pipeline, [pipeline(batch[0].visible, batch[0].infrared, rounding)]
        together = pipeline(
            np.stack([item.visible for item in batch]),
            np.stack([item.infrared for item in batch])[..., None],
            rounding,
        )
    except ImageError as error:  # values that are no image
        return pipeline, error
    hr = [None] * len(batch) if together.hr is None else together.hr
    return pipeline, [Result(fused, large) for fused, large in zip(together.fused, hr, strict=True)]


def _rounding(options: FolderOptions) -> Rounding:
    return "truncate" if options.truncate else "nearest"


def _read_ahead(
    pool: futures.Executor,
    pairs: Iterable[Pair],
    options: FolderOptions,
    failed: Callable[[Pair, EsrLefuseError], None],
    ahead: int,
) -> Iterator[_Loaded]:
    """Pairs in order, read by the pool, at most `ahead` before they are needed."""
    remaining = iter(pairs)
    reading = deque((pair, pool.submit(_read, pair, options)) for pair in itertools.islice(remaining, ahead))
    while reading:
        pair, future = reading.popleft()
        for following in itertools.islice(remaining, 1):
            reading.append((following, pool.submit(_read, following, options)))
        try:
            yield future.result()
        except ImageError as error:
            failed(pair, error)


def _batches(items: Iterator[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    """Groups neighbours of one size, at most `size` of them."""
    for _, group in itertools.groupby(items, key=lambda item: item.visible.shape):
        while batch := list(itertools.islice(group, size)):
            yield batch


def _read(pair: Pair, options: FolderOptions) -> _Loaded:
    visible = read_visible(pair.visible, max_pixels=options.max_pixels)
    infrared = read_infrared(pair.infrared, ir_range=options.ir_range, max_pixels=options.max_pixels)
    if visible.shape[:2] != infrared.shape:
        raise ImageError(
            f"{pair.stem}: sizes differ: visible {visible.shape[1]}x{visible.shape[0]} ({pair.visible}), infrared "
            f"{infrared.shape[1]}x{infrared.shape[0]} ({pair.infrared}): align and resize one of them"
        )
    return _Loaded(pair, visible, infrared)


def _paths(pair: Pair, options: FolderOptions) -> list[Path]:
    folders = [options.out_dir] if options.lr_dir is None else [options.lr_dir, options.out_dir]
    return [folder / f"{pair.stem}{options.suffix}" for folder in folders]


def _write(pair: Pair, result: Result, options: FolderOptions) -> None:
    """Writes the main result last, so that its presence says that the pair is complete."""
    images = [result.fused if result.hr is None else result.hr]
    if options.lr_dir is not None:
        images.insert(0, result.fused)
    for path, image in zip(_paths(pair, options), images, strict=True):
        if "/" in pair.stem:
            with _output_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
        channels = image[..., 0] if options.gray else image
        write_image(path, channels, rounding=_rounding(options))


@contextlib.contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used for output: {error.strerror or error}") from error


def _open_outputs(folders: Sequence[Path], options: FolderOptions, settings: dict[str, str]) -> None:
    settings = settings | {
        "suffix": options.suffix,
        "truncate": str(options.truncate),
        "gray": str(options.gray),
    }
    for folder in folders:
        with _output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / MANIFEST
        if options.resume and manifest.is_file():
            try:
                before = json.loads(manifest.read_text())
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"{manifest}: cannot be read ({error}): delete it, or run without --resume"
                ) from None
            changed = sorted(
                key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key)
            )
            if changed:
                raise ConfigError(
                    f"{folder}: holds results of another run ({', '.join(changed)} differ): "
                    "use another --out_dir, or run without --resume to replace them"
                )
        write_bytes(manifest, json.dumps(settings, indent=1, sort_keys=True).encode())
