"""The run: every metric of every image, images in parallel, one bad file never stops the rest."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esr_lefuse_jax.errors import ConfigError, ImageError, MetricError
from esr_lefuse_jax.evaluation.inputs import Inputs, lr_path, read_infrared_levels, read_levels
from esr_lefuse_jax.evaluation.results import Column, Results, Row, order
from esr_lefuse_jax.metrics import METRICS, measure, to_gray
from esr_lefuse_jax.metrics.registry import FUSION_METRICS, REFERENCE_METRICS, Metric
from esr_lefuse_jax.metrics.resample import bicubic_up, box_down

_SUFFIX = {"bicubic4x": "_vs_bicubic", "lr": "_vs_lr", "gt": "", None: ""}
_TITLE = {"bicubic4x": " vs bicubic", "lr": " vs LR", "gt": "", None: ""}


@dataclasses.dataclass(frozen=True)
class Selection:
    """The metrics of each stage, under the keys of the outputs."""

    fused: Mapping[str, Metric]
    enlarged: Mapping[str, Metric]
    baseline: str | None

    def columns(self) -> dict[str, tuple[Column, ...]]:
        """How the outputs show them; stages without metrics are left out."""
        stages = {"fused": self.fused, "enlarged": self.enlarged}
        return {
            stage: tuple(self._column(key, metric) for key, metric in metrics.items())
            for stage, metrics in stages.items()
            if metrics
        }

    def _column(self, key: str, metric: Metric) -> Column:
        title = metric.title + (_TITLE[self.baseline] if metric.needs == "reference" else "")
        return Column(key, title, metric.convention, metric.higher_is_better, metric.digits)


def select(
    inputs: Inputs, names: Sequence[str] | None = None, known: Mapping[str, Metric] | None = None
) -> Selection:
    """Decides which metric is computed at which stage.

    Fused images are measured alone and against their sources; enlarged ones alone, against the baseline, and
    by LR-consistency, which stands beside every PSNR against bicubic.

    Args:
      inputs: what there is to measure.
      names: metrics by name; all defaults that the inputs allow when None.
      known: all metrics by name; `METRICS` when None.

    Raises:
      ConfigError: an unknown name, or a metric whose inputs are missing.
    """
    known = METRICS if known is None else known
    has_lr = has_low_resolution(inputs)
    usable = {
        "image": True,
        "sources": bool(inputs.sources),
        "reference": inputs.baseline is not None,
        "lr": has_lr,
    }
    if names is None:
        defaults = (*FUSION_METRICS, *REFERENCE_METRICS, "lr_consistency")
        names = [name for name in defaults if usable[known[name].needs]]
    names = list(dict.fromkeys(names))
    how = {
        "sources": "--ir_dir and --vis_dir",
        "reference": "--gt_baseline bicubic4x, lr, or gt DIR",
        "lr": "--lr_dir, the images that were enlarged",
    }
    for name in names:
        if name not in known:
            raise ConfigError(f"metric {name!r}: one of {', '.join(known)}")
        if not usable[known[name].needs]:
            raise ConfigError(f"metric {name!r} needs {how[known[name].needs]}")
    if inputs.baseline == "bicubic4x" and "psnr" in names and has_lr and "lr_consistency" not in names:
        names.insert(names.index("psnr") + 1, "lr_consistency")
    fused: dict[str, Metric] = {}
    enlarged: dict[str, Metric] = {}
    for metric in (known[name] for name in names):
        if metric.needs in ("image", "sources") and any(m.fused for m in inputs.methods):
            fused[metric.name] = metric
        if metric.needs != "sources" and any(m.enlarged for m in inputs.methods):
            suffix = _SUFFIX[inputs.baseline] if metric.needs == "reference" else ""
            enlarged[metric.name + suffix] = metric
    # True references of the fused images' own size: the enlarged stage is then empty.
    if not enlarged and inputs.baseline == "gt":
        fused |= {
            metric.name: metric for metric in map(known.__getitem__, names) if metric.needs == "reference"
        }
    if not fused and not enlarged:
        raise ConfigError("none of the metrics can be computed from these folders")
    return Selection(fused, enlarged, inputs.baseline)


def has_low_resolution(inputs: Inputs) -> bool:
    """Whether the images that were enlarged are known, rather than only their enlargements."""
    return any(
        lr_path(inputs, method, stem) is not None for method in inputs.methods for stem in method.enlarged
    )


def evaluate(
    inputs: Inputs,
    selection: Selection,
    record: Mapping[str, Any] | None = None,
    jobs: int = 2,
    progress: bool = True,
) -> Results:
    """Measures everything.

    Args:
      inputs: see `inputs.gather`.
      selection: see `select`.
      record: what the outputs say about the run.
      jobs: images measured at once; each holds its images in memory.
      progress: show a progress bar.

    Returns:
      The results; unreadable files are among its problems.
    """

    def one(stem: str) -> tuple[list[Row], list[str]]:
        return _measure_stem(stem, inputs, selection)

    rows: list[Row] = []
    problems = list(inputs.problems)
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        done = pool.map(one, inputs.stems)
        for new_rows, new_problems in tqdm(
            done, total=len(inputs.stems), unit="image", desc="measuring", disable=not progress
        ):
            rows += new_rows
            problems += new_problems
    names = tuple(method.name for method in inputs.methods)
    return Results(
        rows=order(rows, names),
        columns=selection.columns(),
        methods=names,
        common={stage: _common(rows, stage) for stage in selection.columns()},
        record=dict(record or {}),
        problems=tuple(problems),
    )


def _common(rows: Iterable[Row], stage: str) -> tuple[str, ...]:
    """Images that every method of a stage has a row for."""
    by_method: dict[str, set[str]] = {}
    for row in rows:
        if row.stage == stage:
            by_method.setdefault(row.method, set()).add(row.stem)
    return tuple(sorted(set.intersection(*by_method.values()))) if by_method else ()


class _Images:
    """Images of one stem, each read once; a file that cannot be read is reported once."""

    def __init__(self) -> None:
        self._read: dict[Path, np.ndarray | None] = {}
        self.problems: list[str] = []

    def get(self, path: Path | None, reader: Callable[[Path], np.ndarray] = read_levels) -> np.ndarray | None:
        if path is None:
            return None
        if path not in self._read:
            try:
                self._read[path] = reader(path)
            except ImageError as error:
                self._read[path] = None
                self.problems.append(str(error))
        return self._read[path]


def _measure_stem(stem: str, inputs: Inputs, selection: Selection) -> tuple[list[Row], list[str]]:
    images = _Images()
    pair = inputs.sources.get(stem)
    sources = None
    if pair is not None and selection.fused:
        infrared, visible = images.get(pair.infrared, read_infrared_levels), images.get(pair.visible)
        if infrared is not None and visible is not None:
            sources = (infrared, to_gray(visible))
    reference = images.get(inputs.references.get(stem))
    rows = []
    for method in inputs.methods:
        # Read outside the shared cache: a 4x image is large, and no other method needs it.
        large = _Images()
        enlarged = large.get(method.enlarged.get(stem)) if selection.enlarged else None
        images.problems += large.problems
        rows += measure_images(
            stem,
            method.name,
            selection,
            fused=images.get(method.fused.get(stem)) if selection.fused else None,
            enlarged=enlarged,
            sources=sources,
            lr=None if enlarged is None else images.get(lr_path(inputs, method, stem)),
            reference=reference,
        )
    return rows, images.problems


def measure_images(
    stem: str,
    method: str,
    selection: Selection,
    *,
    fused: np.ndarray | None = None,
    enlarged: np.ndarray | None = None,
    sources: tuple[np.ndarray, np.ndarray] | None = None,
    lr: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> list[Row]:
    """Measures one image of one method, at the stages that are given.

    Args:
      stem: name of the image.
      method: name of the method.
      selection: the metrics.
      fused: (H, W, 3) uint8.
      enlarged: (s H, s W, 3) uint8.
      sources: infrared and visible image of the fused one's size, 0..255.
      lr: what `enlarged` was made from; its own box means stand for it when None.
      reference: true high-resolution image, for the baseline "gt".

    Returns:
      A row for each stage.
    """
    rows = []
    if fused is not None and selection.fused:
        given: dict[str, Any] = {"image": (fused,), "sources": sources and (fused, *sources)}
        if reference is not None and not selection.enlarged:
            given["reference"] = (reference, fused)
        rows.append(_row(stem, method, "fused", selection.fused, given))
    if enlarged is not None and selection.enlarged:
        given = {"image": (enlarged,), "lr": None if lr is None else (enlarged, lr)}
        if any(metric.needs == "reference" for metric in selection.enlarged.values()):
            given["reference"] = _against(selection.baseline, enlarged, lr, reference)
        rows.append(_row(stem, method, "enlarged", selection.enlarged, given))
    return rows


def _against(
    baseline: str | None, image: np.ndarray, lr: np.ndarray | None, reference: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | str | None:
    """(reference, image) for the baseline, or why there is none."""
    if baseline == "gt":
        return None if reference is None else (reference, image)
    try:
        if lr is None:
            lr = np.rint(box_down(image, 4)).astype(np.uint8)
        scale = image.shape[0] // lr.shape[0]
        if scale < 1 or (lr.shape[0] * scale, lr.shape[1] * scale) != image.shape[:2]:
            sizes = f"{image.shape[1]}x{image.shape[0]} is no whole multiple of {lr.shape[1]}x{lr.shape[0]}"
            return f"no {baseline} reference: {sizes}"
        if baseline == "lr":
            return lr, box_down(image, scale)
        return bicubic_up(lr, scale, rounded=True), image
    except MetricError as error:
        return f"no {baseline} reference: {error}"


def _row(stem: str, method: str, stage: str, metrics: Mapping[str, Metric], given: Mapping[str, Any]) -> Row:
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for key, metric in metrics.items():
        arguments = given.get(metric.needs)
        if arguments is None or isinstance(arguments, str):
            undefined[key] = arguments or f"no {metric.needs} for this image"
            continue
        value, reason = measure(metric, *arguments)
        if value is None:
            undefined[key] = reason or ""
        else:
            values[key] = value
    return Row(stem, method, stage, values, undefined)
