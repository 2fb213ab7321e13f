"""The HTML report: a folder with `index.html` and its images that opens from disk, without a server."""

import dataclasses
import importlib.resources
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import OutputError
from esr_lefuse_jax.evaluation.inputs import Inputs
from esr_lefuse_jax.evaluation.layers import layers as all_layers
from esr_lefuse_jax.evaluation.results import STAGES, Results
from esr_lefuse_jax.images import encode_image

MAX_SIDE = 2560
MAX_IMAGES = 60
_THUMB_HEIGHT = 136
_SCRIPTS = ("viewer.js", "figures.js")


def write(
    results: Results,
    inputs: Inputs,
    folder: Path,
    *,
    title: str = "ESR-LEFuse evaluation",
    max_images: int = MAX_IMAGES,
    max_side: int = MAX_SIDE,
    jobs: int = 2,
    progress: bool = True,
) -> Path:
    """Writes the report.

    Args:
      results: the figures to show.
      inputs: the images they were measured on.
      folder: receives `index.html` and `images/`; both replace what an earlier report left.
      title: heading of the page.
      max_images: images in the viewer, spread evenly over the set; tables and plots show all.
      max_side: longer side, in pixels, above which images are scaled down for the page.
      jobs: images at once.
      progress: show a progress bar.

    Returns:
      The path of `index.html`.

    Raises:
      OutputError: the folder cannot be written.
    """
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror or error}") from error
    stems = list(dict.fromkeys(row.stem for row in results.rows))
    chosen = _spread(stems, max_images)
    numbered = list(enumerate(chosen))
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        done = pool.map(lambda item: _write_images(item[0], item[1], inputs, folder, max_side), numbered)
        images = list(tqdm(done, total=len(chosen), unit="image", desc="report", disable=not progress))
    notes = []
    if len(chosen) < len(stems):
        notes.append(
            f"The viewer shows {len(chosen)} of {len(stems)} images, spread evenly; figures cover all."
        )
    data = _figures(results) | {
        "images": [image for image in images if image["layers"]],
        "first": _first_layers(images, results),
        "notes": notes,
    }
    index = folder / "index.html"
    write_bytes(index, _page(title, data).encode())
    return index


def _spread(stems: list[str], count: int) -> list[str]:
    if len(stems) <= count:
        return stems
    return [stems[i] for i in np.linspace(0, len(stems) - 1, count).round().astype(int)]


def _page(title: str, data: dict[str, Any]) -> str:
    page = importlib.resources.files(__package__) / "page"
    parts = {
        "title": title.replace("&", "&amp;").replace("<", "&lt;"),
        "style": (page / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join((page / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        # Inside a script element only "</" could end the data early.
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("</", "<\\/"),
    }
    template = (page / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _figures(results: Results) -> dict[str, Any]:
    stages = {}
    for stage, columns in results.columns.items():
        methods = results.stage_methods(stage)
        means = {
            m: {c.key: dataclasses.asdict(results.mean(stage, m, c.key)) for c in columns} for m in methods
        }
        for row in results.rows:
            if row.stage == stage:
                for key, reason in row.undefined.items():
                    means[row.method][key].setdefault("reason", reason)
        stages[stage] = {
            "label": STAGES[stage].capitalize(),
            "columns": [dataclasses.asdict(column) for column in columns],
            "methods": methods,
            "images": len(results.common[stage]),
            "means": means,
            "best": {column.key: sorted(results.best(stage, column)) for column in columns},
        }
    conventions = {
        c.key: f"{c.title}: {c.convention}" for columns in results.columns.values() for c in columns
    }
    return {
        "methods": list(results.methods),
        "stages": stages,
        "rows": [
            {
                "stem": row.stem,
                "stage": row.stage,
                "method": row.method,
                "values": dict(row.values),
                "undefined": dict(row.undefined),
            }
            for row in results.rows
        ],
        "conventions": list(conventions.items()),
        "record": dict(results.record),
        "problems": list(results.problems),
    }


def _first_layers(images: list[dict[str, Any]], results: Results) -> dict[str, str]:
    """What the viewer opens with: bicubic against the main method's enlargement, or visible against fused."""
    ids = [layer["id"] for layer in images[0]["layers"]] if images else []
    main = results.methods[0] if results.methods else ""
    right = next(
        (name for name in (f"enlarged:{main}", f"fused:{main}") if name in ids), ids[-1] if ids else ""
    )
    wanted = ("bicubic", "visible") if right.startswith("enlarged:") else ("visible", "infrared")
    left = next((name for name in wanted if name in ids), ids[0] if ids else "")
    return {"left": left, "right": right}


def _write_images(number: int, stem: str, inputs: Inputs, folder: Path, max_side: int) -> dict[str, Any]:
    """Writes every layer of an image; layers that cannot be read are left out (the run has named them)."""
    prefix = f"{number:04d}_" + re.sub(r"[^A-Za-z0-9]+", "-", stem)[-40:]
    layers: list[dict[str, str]] = []
    size: tuple[int, int] | None = None
    thumb = thumb_of = ""

    for layer in all_layers(inputs, stem):
        name = f"images/{prefix}_{len(layers)}.jpg"
        write_bytes(folder / name, encode_image(_limited(layer.image, max_side), ".jpg", quality=90))
        layers.append({"id": layer.key, "label": layer.label, "file": name})
        if size is None or layer.key.startswith("enlarged:"):
            size = layer.image.shape[:2]
        if not thumb or (layer.key.startswith("fused:") and "fused:" not in thumb_of):
            thumb, thumb_of = f"images/{prefix}_thumb.jpg", layer.key
            small = _limited(layer.image, _THUMB_HEIGHT, side=0)
            write_bytes(folder / thumb, encode_image(small, ".jpg", quality=85))
    height, width = size or (1, 1)
    return {"stem": stem, "width": width, "height": height, "thumb": thumb, "layers": layers}


def _limited(image: np.ndarray, limit: int, side: int | None = None) -> np.ndarray:
    """Scales an image down so that its longer side (or `side`) is at most `limit`."""
    longest = max(image.shape[:2]) if side is None else image.shape[side]
    if longest <= limit:
        return image
    height, width = (max(1, round(n * limit / longest)) for n in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
