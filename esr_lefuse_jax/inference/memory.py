"""How much memory inference may take, and how high the strips may be for it."""

import dataclasses
import os
import re
from typing import Any

from esr_lefuse_jax.errors import ConfigError

STRIPS = (256, 128, 64, 32, 16, 8)

# Floats that live at once for each pixel of the input, counted from the compiled programs' own statistics and
# rounded up: of a whole image, of the planes that strips leave between passes, and of a strip.
_FUSION_WHOLE, _FUSION_PLANES, _FUSION_STRIP = 700, 180, 900
_SR_WHOLE, _SR_PLANES, _SR_STRIP = 2600, 240, 2600
_TEACHER_PLANES, _TEACHER_STRIP = 300, 600
# Higher strips of the teacher would save little more of their margins, and each height is a program of its own.
_TEACHER_MOST_ROWS = 160
# Pixels of a strip beyond which the caches of a CPU core no longer hold its planes, and higher strips lose.
_FUSION_CPU_STRIP, _SR_CPU_STRIP = 10_240, 20_480
# Images whose stage 2 takes no more than this run whole on a CPU too: no rows are computed past the image's end.
_CPU_WHOLE = 256 << 20

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_bytes(text: str | None) -> int | None:
    """Reads a size such as 500M or 2G; None stays.

    Raises:
        ConfigError: it is no size.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not size:
        raise ConfigError(f"--max_memory {text!r}: give a size such as 500M or 2G")
    return size


@dataclasses.dataclass(frozen=True)
class Plan:
    """How an image is run.

    Attributes:
        strip: rows of a strip; None for the whole image in one program.
        on_disk: the planes between passes do not fit into memory.
    """

    strip: int | None
    on_disk: bool = False


def default_budget(device: Any) -> int:
    """Bytes that activations may take: 80 % of an accelerator's memory, half of what the machine has free."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(0.8 * stats["bytes_limit"])
    pages = os.sysconf("SC_AVPHYS_PAGES") if hasattr(os, "sysconf") else 0
    return max(pages * os.sysconf("SC_PAGE_SIZE") // 2, 1 << 30) if pages > 0 else 4 << 30


def plan_fusion(n: int, canvas: tuple[int, int], itemsize: int, max_memory: int | None, device: Any) -> Plan:
    """Chooses how stage 1 runs on a padded (n, height, width)."""
    floats = (_FUSION_WHOLE, _FUSION_PLANES, _FUSION_STRIP)
    return _plan(n, canvas, itemsize, max_memory, device, floats, cpu_strip=_FUSION_CPU_STRIP, cpu_whole=0)


def plan_enlargement(
    n: int, canvas: tuple[int, int], scale: int, itemsize: int, max_memory: int | None, device: Any
) -> Plan:
    """Chooses how stage 2 runs on a padded (n, height, width)."""
    floats = (_SR_WHOLE, _SR_PLANES + 3 * scale**2 * 4 // itemsize, _SR_STRIP)
    return _plan(
        n, canvas, itemsize, max_memory, device, floats, cpu_strip=_SR_CPU_STRIP, cpu_whole=_CPU_WHOLE
    )


def teacher_strip(height: int, width: int, itemsize: int, max_memory: int) -> int:
    """Rows of the teacher's strips, margins included, for an image of this size."""
    left = max_memory - height * width * _TEACHER_PLANES * itemsize
    rows = max(left // (width * _TEACHER_STRIP * itemsize), 0)
    return min(rows // 32 * 32, _TEACHER_MOST_ROWS)


def _plan(
    n: int,
    canvas: tuple[int, int],
    itemsize: int,
    max_memory: int | None,
    device: Any,
    floats: tuple[int, int, int],
    *,
    cpu_strip: int,
    cpu_whole: int,
) -> Plan:
    height, width = canvas
    whole, planes, strip_floats = floats
    on_cpu = device.platform == "cpu"
    budget = default_budget(device) if max_memory is None else max_memory
    if n * height * width * whole * itemsize <= (min(budget, cpu_whole) if on_cpu else budget):
        return Plan(None)
    left = budget - n * height * width * planes * itemsize
    for strip in STRIPS:
        if on_cpu and strip > STRIPS[-1] and strip * width > cpu_strip:
            continue
        if n * strip * width * strip_floats * itemsize <= left:
            return Plan(strip)
    return Plan(STRIPS[-1], on_disk=True)
