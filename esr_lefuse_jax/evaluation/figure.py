"""Figures for papers: for each image all methods side by side, each with zoomed crops, as PNG and PDF."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.evaluation.inputs import Inputs
from esr_lefuse_jax.evaluation.layers import Layer, layers
from esr_lefuse_jax.metrics import to_gray

MAX_COLUMNS = 6
_COLOURS = ("#ff4d4d", "#ffd21f", "#3fd16b")
_CELL = 1.75  # inches
_WHOLE_PIXELS = 640  # longer side of a whole image in the figure; crops keep every pixel
_GAP = 0.04


class Crop(NamedTuple):
    """A square part of the image, in pixels of the low-resolution images."""

    x: int
    y: int
    size: int


def write(
    inputs: Inputs, path: Path, stems: Sequence[str] = (), crops: Sequence[str] = (), dpi: int = 300
) -> list[Path]:
    """Writes `path`.png and `path`.pdf.

    Args:
      inputs: the images.
      path: without an ending.
      stems: images to show, each a block of rows; the first three when empty.
      crops: `[STEM:]X,Y,SIZE` in pixels of the sources; without any for an image, two are chosen: the warmest
        contrast in the infrared and the finest detail in the visible image.
      dpi: resolution of the PNG.

    Returns:
      The two files.

    Raises:
      ConfigError: an unknown image, a crop that is none or lies outside, or matplotlib is not installed.
      OutputError: a file cannot be written.
    """
    backend = _matplotlib()
    unknown = [stem for stem in stems if stem not in inputs.stems]
    if unknown:
        raise ConfigError(f"--figure {unknown[0]}: no such image; one of {', '.join(inputs.stems[:8])}, ...")
    wanted = list(stems) or list(inputs.stems[:3])
    given = [_parse(text) for text in crops]
    blocks = []
    for stem in wanted:
        shown = list(layers(inputs, stem))
        if shown:
            own = [crop for name, crop in given if name in (None, stem)]
            blocks.append((stem, shown, own or _choose(shown)))
    if not blocks:
        raise ConfigError("--figure: none of the images can be read")
    figure = _draw(backend, blocks)
    written = []
    for ending in ("png", "pdf"):
        stream = io.BytesIO()
        # No creation date: the same inputs give the same file.
        metadata = {"CreationDate": None} if ending == "pdf" else None
        figure.savefig(stream, format=ending, dpi=dpi, metadata=metadata)
        target = path.with_name(f"{path.name}.{ending}")
        write_bytes(target, stream.getvalue())
        written.append(target)
    return written


def _matplotlib() -> ModuleType:
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
        import matplotlib.patches
    except ImportError as error:
        raise ConfigError("figures use matplotlib: pip install 'esr-lefuse-jax[eval]'") from error
    return matplotlib


def _parse(text: str) -> tuple[str | None, Crop]:
    stem, colon, numbers = text.rpartition(":")
    try:
        x, y, size = (int(number) for number in numbers.split(","))
    except ValueError as error:
        raise ConfigError(f"--crops {text}: give [STEM:]X,Y,SIZE in pixels of the sources") from error
    if size < 4 or x < 0 or y < 0:
        raise ConfigError(f"--crops {text}: the corner must not be negative, the size at least 4")
    return (stem if colon else None), Crop(x, y, size)


def _base_size(shown: Sequence[Layer]) -> tuple[int, int]:
    return min((layer.image.shape[0], layer.image.shape[1]) for layer in shown)


def _choose(shown: Sequence[Layer]) -> list[Crop]:
    """Two crops that do not overlap: strongest contrast of the first layer, finest detail of the second."""
    height, width = _base_size(shown)
    size = max(4, min(height, width) // 5)
    step = max(1, size // 4)
    crops: list[Crop] = []
    for layer in shown[:2]:
        gray = to_gray(layer.image).astype(np.float32)[:height, :width]
        ys, xs = np.arange(0, height - size + 1, step), np.arange(0, width - size + 1, step)
        if crops:
            score = _window_sums(_gradient(gray), ys, xs, size)
        else:  # the first layer is the infrared one where there are sources: variance finds its targets
            mean = _window_sums(gray, ys, xs, size) / size**2
            score = _window_sums(gray**2, ys, xs, size) / size**2 - mean**2
        for crop in crops:
            near = (abs(ys - crop.y) < size)[:, None] & (abs(xs - crop.x) < size)[None]
            score[near] = -1
        i, j = np.unravel_index(np.argmax(score), score.shape)
        crops.append(Crop(int(xs[j]), int(ys[i]), size))
    return crops


def _window_sums(values: np.ndarray, ys: np.ndarray, xs: np.ndarray, size: int) -> np.ndarray:
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0, np.float64).cumsum(1)
    lower, upper = sums[ys + size], sums[ys]
    return lower[:, xs + size] - lower[:, xs] - upper[:, xs + size] + upper[:, xs]


def _gradient(gray: np.ndarray) -> np.ndarray:
    gy, gx = np.gradient(gray, axis=0), np.gradient(gray, axis=1)
    return np.hypot(gx, gy)


def _draw(backend: Any, blocks: Sequence[tuple[str, list[Layer], list[Crop]]]) -> Any:
    most = max(len(shown) for _, shown, _ in blocks)
    columns = -(-most // -(-most // MAX_COLUMNS))  # rows of equal length
    heights = []
    for _, shown, crops in blocks:
        height, width = _base_size(shown)
        cell = _CELL * height / width + _CELL / max(1, len(crops)) * bool(crops) + 0.26
        heights.append((cell, -(-len(shown) // columns)))
    total = sum(cell * rows for cell, rows in heights) + 0.1 * len(blocks)
    figure = backend.figure.Figure(figsize=(columns * _CELL + (columns + 1) * _GAP, total))
    backend.backends.backend_agg.FigureCanvasAgg(figure)
    top = total
    for (_, shown, crops), (cell, rows) in zip(blocks, heights, strict=True):
        height, width = _base_size(shown)
        _check(crops, height, width)
        for index, layer in enumerate(shown):
            row, column = divmod(index, columns)
            left = _GAP + column * (_CELL + _GAP)
            _draw_layer(backend, figure, layer, crops, left, top - row * cell, (height, width))
        top -= rows * cell + 0.1
    return figure


def _check(crops: Sequence[Crop], height: int, width: int) -> None:
    for crop in crops:
        if crop.x + crop.size > width or crop.y + crop.size > height:
            raise ConfigError(f"--crops {crop.x},{crop.y},{crop.size}: leaves the image of {width}x{height}")


def _draw_layer(
    backend: Any,
    figure: Any,
    layer: Layer,
    crops: Sequence[Crop],
    left: float,
    top: float,
    base: tuple[int, int],
) -> None:
    height, width = base
    scale = layer.image.shape[0] / height
    total_width, total_height = figure.get_size_inches()

    def axes(x: float, y: float, w: float, h: float) -> Any:
        ax = figure.add_axes((x / total_width, y / total_height, w / total_width, h / total_height))
        ax.set_xticks([])
        ax.set_yticks([])
        return ax

    label_height = 0.2
    figure.text(
        (left + _CELL / 2) / total_width,
        (top - label_height / 2) / total_height,
        layer.label,
        ha="center",
        va="center",
        fontsize=7.5,
    )
    whole_height = _CELL * height / width
    whole = axes(left, top - label_height - whole_height, _CELL, whole_height)
    for spine in whole.spines.values():
        spine.set_visible(False)
    _show(whole, _shrunk(layer.image), extent=(0, width, height, 0))
    for number, crop in enumerate(crops):
        colour = _COLOURS[number % len(_COLOURS)]
        corner = (crop.x, crop.y)
        box = backend.patches.Rectangle(
            corner, crop.size, crop.size, fill=False, edgecolor=colour, linewidth=1
        )
        whole.add_patch(box)
        side = (_CELL - _GAP * (len(crops) - 1)) / len(crops)
        x = left + number * (side + _GAP)
        zoomed = axes(x, top - label_height - whole_height - _GAP - side, side, side)
        for spine in zoomed.spines.values():
            spine.set(edgecolor=colour, linewidth=1.2)
        x0, y0, size = (round(value * scale) for value in crop)
        _show(zoomed, layer.image[y0 : y0 + size, x0 : x0 + size])


def _show(ax: Any, image: np.ndarray, extent: tuple[float, ...] | None = None) -> None:
    ax.imshow(
        image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto", extent=extent, zorder=0
    )


def _shrunk(image: np.ndarray) -> np.ndarray:
    longest = max(image.shape[:2])
    if longest <= _WHOLE_PIXELS:
        return image
    height, width = (max(1, round(side * _WHOLE_PIXELS / longest)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
