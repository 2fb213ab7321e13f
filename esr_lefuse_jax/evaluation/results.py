"""The outcome of an evaluation: one row per image, stage and method; means over the same images for all."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import ConfigError

FORMAT = "esr_lefuse_jax evaluation 1"
STAGES = {"fused": "fused, low resolution", "enlarged": "enlarged"}
NOT_DEFINED = "not defined"


@dataclasses.dataclass(frozen=True)
class Column:
    """A metric as it appears in the outputs; `key` says what a reference metric refers to."""

    key: str
    title: str
    convention: str
    higher_is_better: bool
    digits: int

    def text(self, value: float | None) -> str:
        """The value as tables print it."""
        return NOT_DEFINED if value is None else f"{value:.{self.digits}f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """Values of one image of one method at one stage, and why the missing ones are not defined."""

    stem: str
    method: str
    stage: str
    values: Mapping[str, float]
    undefined: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean over the images on which the metric is defined: `count` of `total`."""

    value: float | None
    deviation: float | None
    count: int
    total: int


@dataclasses.dataclass(frozen=True)
class Results:
    """All rows with their columns.

    Attributes:
      rows: in the order of images, then methods.
      columns: by stage, the metrics in the order asked for.
      methods: names in the order given.
      common: by stage, the images that all methods have: means are over these alone.
      record: what is needed to repeat or to judge the run: versions, conventions, inputs, hashes.
      problems: one line for each file that could not take part.
    """

    rows: tuple[Row, ...]
    columns: Mapping[str, tuple[Column, ...]]
    methods: tuple[str, ...]
    common: Mapping[str, tuple[str, ...]]
    record: Mapping[str, Any]
    problems: tuple[str, ...]

    def stage_methods(self, stage: str) -> list[str]:
        """The methods that have images of a stage."""
        present = {row.method for row in self.rows if row.stage == stage}
        return [name for name in self.methods if name in present]

    def mean(self, stage: str, method: str, key: str) -> Mean:
        """The mean of a metric over the images that all methods have at this stage."""
        common = set(self.common[stage])
        rows = [row for row in self.rows if (row.stage, row.method) == (stage, method) and row.stem in common]
        values = [row.values[key] for row in rows if key in row.values]
        if not values:
            return Mean(None, None, 0, len(rows))
        # fsum: the mean of equal values is that value, whatever their number.
        mean = math.fsum(values) / len(values)
        return Mean(mean, float(np.std(values)), len(values), len(rows))

    def best(self, stage: str, column: Column) -> set[str]:
        """The methods with the best printed mean; none when there is nothing to compare, or a tie of all."""
        means = {m: self.mean(stage, m, column.key).value for m in self.stage_methods(stage)}
        known = {name: round(value, column.digits) for name, value in means.items() if value is not None}
        if len(known) < 2 or len(set(known.values())) == 1:
            return set()
        best = max(known.values()) if column.higher_is_better else min(known.values())
        return {name for name, value in known.items() if value == best}

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; a metric that is not defined is absent from `values` and explained."""
        return {
            "format": FORMAT,
            "record": dict(self.record),
            "methods": list(self.methods),
            "columns": {stage: [dataclasses.asdict(c) for c in cs] for stage, cs in self.columns.items()},
            "images_in_means": {stage: list(stems) for stage, stems in self.common.items()},
            "means": [
                {"stage": stage, "method": method, "metric": c.key}
                | dataclasses.asdict(self.mean(stage, method, c.key))
                for stage, columns in self.columns.items()
                for method in self.stage_methods(stage)
                for c in columns
            ],
            "rows": [
                dataclasses.asdict(row) | {"values": dict(row.values), "undefined": dict(row.undefined)}
                for row in self.rows
            ],
            "problems": list(self.problems),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_json` to a file, atomically; raises OutputError."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        write_bytes(path, text.encode() + b"\n")


def load_results(path: str | os.PathLike) -> Results:
    """Reads what `Results.save` wrote.

    Raises:
      ConfigError: the file is missing, or not such a file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if data["format"] != FORMAT:
            raise ConfigError(f"{path}: format {data['format']!r} is not {FORMAT!r}: evaluate again")
        return Results(
            rows=tuple(Row(**row) for row in data["rows"]),
            columns={
                stage: tuple(Column(**c) for c in columns) for stage, columns in data["columns"].items()
            },
            methods=tuple(data["methods"]),
            common={stage: tuple(stems) for stage, stems in data["images_in_means"].items()},
            record=data["record"],
            problems=tuple(data["problems"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the results of an evaluation: {error}") from error


def order(rows: Sequence[Row], methods: Sequence[str]) -> tuple[Row, ...]:
    """Rows by image, then stage, then method as given."""
    stages = list(STAGES)
    return tuple(sorted(rows, key=lambda r: (r.stem, stages.index(r.stage), list(methods).index(r.method))))
