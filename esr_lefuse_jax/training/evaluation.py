"""Evaluation on whole images, in batches of one size, where padding never counts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from esr_lefuse_jax.training import parallel

Example = Mapping[str, np.ndarray]
Batch = dict[str, np.ndarray]


def whole_image_batches(
    examples: Iterable[Example], batch_size: int, pad_to: int, scale: int
) -> Iterator[Batch]:
    """Groups examples of different sizes into batches of one size.

    Args:
        examples: (H, W, C) arrays by name; `hr` is `scale` times as large as the others.
        batch_size: examples in a batch; the last of each size is filled up by copies.
        pad_to: sizes are padded to multiples of this by repeating border pixels. 1 pads nothing, and the
            networks, whose attention sees the whole image, then see exactly the image.
        scale: of `hr`.

    Yields:
        Batches with `valid` (B,), zeros for copies, and `mask` (B, H, W, 1), zeros for padded pixels.
    """
    waiting: dict[tuple, list[Batch]] = {}
    for example in examples:
        padded = _pad(example, pad_to, scale)
        key = tuple(sorted((name, value.shape) for name, value in padded.items()))
        group = waiting.setdefault(key, [])
        group.append(padded)
        if len(group) == batch_size:
            yield _stack(waiting.pop(key), batch_size)
    for group in waiting.values():
        yield _stack(group, batch_size)


def _pad(example: Example, pad_to: int, scale: int) -> Batch:
    height, width = next(
        value.shape[:2] for name, value in sorted(example.items()) if name != "hr" and value.ndim == 3
    )
    down, right = -height % pad_to, -width % pad_to
    padded = {"mask": np.pad(np.ones((height, width, 1), np.float32), ((0, down), (0, right), (0, 0)))}
    for name, value in example.items():
        value = np.asarray(value, np.float32)
        if value.ndim == 3:
            factor = scale if name == "hr" else 1
            value = np.pad(value, ((0, down * factor), (0, right * factor), (0, 0)), mode="edge")
        padded[name] = value
    return padded


def _stack(group: list[Batch], batch_size: int) -> Batch:
    valid = np.zeros(batch_size, np.float32)
    valid[: len(group)] = 1
    group = group + [group[-1]] * (batch_size - len(group))
    return {name: np.stack([example[name] for example in group]) for name in group[0]} | {"valid": valid}


def local_part(batch: Batch) -> Batch:
    """This process's share of a batch that every process has read."""
    count, index = parallel.process_count(), parallel.process_index()
    return {name: np.split(value, count)[index] for name, value in batch.items()}


def evaluate(
    eval_step: Callable[[Mapping[str, Any]], tuple[dict[str, Any], dict[str, Any]]],
    batches: Iterable[Batch],
    mesh: Mesh,
    pictures: int,
    should_stop: Callable[[], bool],
) -> tuple[dict[str, float], list[dict[str, np.ndarray]]] | None:
    """Runs the evaluation step over all batches.

    Args:
        eval_step: takes a batch of global arrays; gives sums and counts by name, and pictures by name.
        batches: from `whole_image_batches`, the same on every process.
        mesh: devices.
        pictures: of how many examples to return the pictures.
        should_stop: asked before every batch; True ends the evaluation.

    Returns:
        Means by name over all valid examples, and for each of the first examples its pictures (h, w, c) by
        name, padding cut off; None when it was ended early.
    """
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    rows: list[dict[str, np.ndarray]] = []
    for batch in batches:
        if should_stop():
            return None
        totals, shown = eval_step(parallel.put_batch(local_part(batch), mesh))
        for name, (total, count) in parallel.gather(totals).items():
            sums[name] = sums.get(name, 0.0) + float(total)
            counts[name] = counts.get(name, 0.0) + float(count)
        if len(rows) < pictures:
            rows += _pictures(parallel.gather(shown), batch)[: pictures - len(rows)]
    return {name: sums[name] / counts[name] for name in sums if counts[name]}, rows


def _pictures(shown: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, np.ndarray]]:
    rows = []
    for i in np.flatnonzero(batch["valid"]):
        mask = batch["mask"][i, :, :, 0]
        height, width = int(mask[:, 0].sum()), int(mask[0].sum())
        row = {}
        for name, images in shown.items():
            # Pictures come at the size of the input or at a multiple (or, for the joint stage, a part) of it.
            ratio = images.shape[1] / mask.shape[0]
            row[name] = images[i, : round(height * ratio), : round(width * ratio)]
        rows.append(row)
    return rows
