"""What a run leaves to be seen: console, JSON lines, TensorBoard, picture sheets. First process only."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import ConfigError, OutputError
from esr_lefuse_jax.image_writing import write_image

METRICS_FILE = "metrics.jsonl"
PICTURE_HEIGHT = 240
CAPTION_HEIGHT = 16

# Shown on the console first; the rest follows in its own order.
_LEADING = ("loss", "psnr", "ssim")
_QUIET = ("finite", "skipped", "skipped_in_row", "learning_rate", "seconds")


class RunLog:
    """Writes the log of one run. On processes other than the first every method does nothing."""

    def __init__(self, folder: Path, active: bool, resumed_at: int | None, tensorboard: bool = False):
        """Opens the log of a run folder.

        Args:
            folder: the run folder.
            active: whether this process writes.
            resumed_at: step from which the run goes on, None for a new run; lines of later steps, which will be
                done again, are dropped.
            tensorboard: whether to write TensorBoard event files too.

        Raises:
            ConfigError: TensorBoard is asked for but tensorboardX is not installed.
        """
        self._folder = folder
        self._active = active
        self._writer: Any = None
        if not active:
            return
        last = -1 if resumed_at is None else resumed_at
        kept = [line for line in read_metrics(folder) if line["step"] <= last]
        write_bytes(folder / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in kept).encode())
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "config.log.tensorboard needs tensorboardX: pip install 'esr-lefuse-jax[tensorboard]'"
                ) from error
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=last + 1)

    def text(self, message: str) -> None:
        """One line on the console."""
        if self._active:
            print(message, flush=True)

    def warn(self, message: str) -> None:
        """One line on standard error."""
        if self._active:
            print(f"warning: {message}", file=sys.stderr, flush=True)

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """One JSON line, and TensorBoard scalars; values that are not finite become null."""
        if not self._active:
            return
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        path = self._folder / METRICS_FILE
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"split": split, "step": step, **clean}) + "\n")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}; free some space") from error
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{split}/{name}", value, step)

    def pictures(self, step: int, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """A sheet of pictures as `pictures/step_NNNNNNNN.png`, and in TensorBoard."""
        if not self._active or not rows:
            return
        sheet = picture_sheet(rows)
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        write_image(folder / f"step_{step:08d}.png", sheet)
        if self._writer is not None:
            self._writer.add_image("validation", sheet, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes TensorBoard."""
        if self._writer is not None:
            self._writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The JSON lines of a run; a line cut off by a crash is left out."""
    path = folder / METRICS_FILE
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


def describe(values: Mapping[str, float]) -> str:
    """Values for the console: the loss first, four significant digits."""
    names = [n for n in _LEADING if n in values] + [
        n for n in values if n not in _LEADING and n not in _QUIET
    ]
    return "  ".join(f"{name} {values[name]:.4g}" for name in names)


class Clock:
    """Rates of a run and the time that is left; the first step of a process, which compiles, is left out."""

    def __init__(self, step: int, total_steps: int, batch_size: int):
        self._total = total_steps
        self._batch_size = batch_size
        self._mark = (step, time.monotonic())
        self._away = 0.0
        self._rate: float | None = None

    def restart(self, step: int) -> None:
        """Starts measuring at this step."""
        self._mark, self._away = (step, time.monotonic()), 0.0

    def leave_out(self, seconds: float) -> None:
        """Time that was not spent on steps: evaluation, saving."""
        self._away += seconds

    def lap(self, step: int) -> dict[str, float]:
        """Since the last lap `steps_per_second`, `images_per_second`; `seconds_left` by a smoothed rate."""
        steps, seconds = step - self._mark[0], time.monotonic() - self._mark[1] - self._away
        self.restart(step)
        if steps <= 0 or seconds <= 0:
            return {}
        now = steps / seconds
        self._rate = now if self._rate is None else 0.7 * self._rate + 0.3 * now
        left = (self._total - step) / self._rate
        return {"steps_per_second": now, "images_per_second": now * self._batch_size, "seconds_left": left}


class Window:
    """Means of the metrics since the last report; steps that were skipped do not enter them."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def add(self, values: dict[str, float]) -> None:
        """Takes the metrics of one step."""
        self._rows.append(values)

    def take(self) -> dict[str, float]:
        """The means, and counters as they are now; starts over."""
        rows, self._rows = self._rows, []
        good = [row for row in rows if row["finite"]]
        means = {name: float(np.mean([row[name] for row in good])) if good else math.nan for name in rows[-1]}
        counters = ("skipped", "skipped_in_row", "loss_scale")
        last: dict[str, float] = {name: rows[-1][name] for name in counters if name in rows[-1]}
        return {**means, **last, "finite": len(good) / len(rows)}


def duration(seconds: float) -> str:
    """h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def picture_sheet(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Pictures side by side with their names above, one row for each example.

    Args:
        rows: images (h, w, 1 or 3) in [0, 1] by name.

    Returns:
        uint8 (H, W, 3).
    """
    strips = []
    for row in rows:
        cells = []
        for name, image in row.items():
            pixels = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
            picture = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
            width = max(1, round(picture.width * PICTURE_HEIGHT / picture.height))
            cell = Image.new("RGB", (width, PICTURE_HEIGHT + CAPTION_HEIGHT), "white")
            cell.paste(picture.resize((width, PICTURE_HEIGHT), Image.Resampling.LANCZOS), (0, CAPTION_HEIGHT))
            ImageDraw.Draw(cell).text((4, 2), name, fill="black")
            cells.append(np.asarray(cell))
        strips.append(np.concatenate(cells, axis=1))
    width = max(strip.shape[1] for strip in strips)
    strips = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(strips)
