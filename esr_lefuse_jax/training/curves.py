"""The learning curves of a run as one PNG: with matplotlib where it is installed, else drawn with Pillow."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from esr_lefuse_jax.atomic import write_bytes

CURVES_FILE = "curves.png"
COLORS = {"train": (31, 119, 180), "validation": (214, 39, 40)}
PANEL = (640, 320)
MARGIN = (64, 28, 12, 28)  # left, top, right, bottom

# For each panel the points (step, value) of each split.
Panels = dict[str, dict[str, list[tuple[int, float]]]]


def collect(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Panels:
    """Points of the named metrics, by metric and split, without those that are null."""
    panels: Panels = {}
    for name in names:
        for split in COLORS:
            points = [
                (line["step"], line[name])
                for line in lines
                if line["split"] == split and line.get(name) is not None
            ]
            if points:
                panels.setdefault(name, {})[split] = points
    return panels


def write_curves(folder: Path, lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Path | None:
    """Draws the named metrics over the steps.

    Args:
        folder: where `curves.png` goes.
        lines: from `logging.read_metrics`.
        names: metrics to draw, one panel each.

    Returns:
        The file, or None when there is nothing to draw.
    """
    panels = collect(lines, names)
    if not panels:
        return None
    try:
        png = _with_matplotlib(panels)
    except ImportError:
        png = with_pillow(panels)
    write_bytes(folder / CURVES_FILE, png)
    return folder / CURVES_FILE


def _with_matplotlib(panels: Panels) -> bytes:
    # The object interface: pyplot would pick a backend and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, splits) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
    ):
        for split, points in splits.items():
            steps, values = zip(*points, strict=True)
            marker = "o" if split == "validation" else None
            color = tuple(c / 255 for c in COLORS[split])
            axes.plot(steps, values, label=split, color=color, marker=marker, markersize=3)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    axes.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def with_pillow(panels: Panels) -> bytes:
    """The same panels in plain lines."""
    width, height = PANEL
    image = Image.new("RGB", (width, height * len(panels)), "white")
    draw = ImageDraw.Draw(image)
    for index, (name, splits) in enumerate(panels.items()):
        _panel(draw, index * height, name, splits)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _panel(
    draw: ImageDraw.ImageDraw, offset: int, name: str, splits: dict[str, list[tuple[int, float]]]
) -> None:
    left, top, right, bottom = MARGIN
    box = (left, offset + top, PANEL[0] - right, offset + PANEL[1] - bottom)
    points = np.array([point for values in splits.values() for point in values], float)
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1)
    draw.rectangle(box, outline=(160, 160, 160))
    draw.text((left, offset + 8), name, fill="black")
    draw.text((4, box[1]), f"{high[1]:.4g}", fill="black")
    draw.text((4, box[3] - 12), f"{low[1]:.4g}", fill="black")
    draw.text((left, box[3] + 6), f"{low[0]:.0f}", fill="black")
    draw.text((box[2] - 48, box[3] + 6), f"step {high[0]:.0f}", fill="black")
    for order, (split, values) in enumerate(splits.items()):
        scaled = (np.array(values, float) - low) / span
        x = box[0] + scaled[:, 0] * (box[2] - box[0])
        y = box[3] - scaled[:, 1] * (box[3] - box[1])
        line = list(zip(x.tolist(), y.tolist(), strict=True))
        draw.line(line, fill=COLORS[split], width=2)
        if split == "validation" or len(line) == 1:
            for px, py in line:
                draw.ellipse((px - 3, py - 3, px + 3, py + 3), fill=COLORS[split])
        draw.text((box[0] + 120 + 90 * order, offset + 8), split, fill=COLORS[split])
