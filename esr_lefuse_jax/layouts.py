"""Recognising where a data set keeps its pairs.

Known as downloaded: LLVIP (`infrared/{train,test}`, `visible/{train,test}`), MSRS (`{train,test}/{ir,vi}`),
M3FD (`Ir`, `Vis`), RoadScene (`cropinfrared`, `crop_LR_visible`), and anything named alike, down to three
folders deep.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from esr_lefuse_jax.errors import PairError

# In the order of preference, for a folder that holds several kinds.
_INFRARED_NAMES = ("ir", "infrared", "thermal", "lwir", "tir", "inf", "cropinfrared")
_VISIBLE_NAMES = ("vi", "vis", "visible", "rgb", "visual", "crop_lr_visible")
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Layout:
    """Two folders whose files pair by stem; `split` is train, validation, test or "" when nothing says."""

    split: str
    ir_dir: Path
    vis_dir: Path


def find_layouts(root: str | os.PathLike) -> list[Layout]:
    """Finds the folders of pairs below `root`, sorted by path.

    A split is read from the folder names on the way (MSRS) or inside the two folders (LLVIP).

    Raises:
        PairError: `root` is no folder, or holds no two folders that look like infrared and visible.
    """
    root = Path(root)
    if not root.is_dir():
        raise PairError(f"{root}: no such folder")
    layouts = _search(root, "", _MAX_DEPTH)
    if not layouts:
        raise PairError(f"{root}: found no pair of folders such as ir/ and vi/ or infrared/ and visible/")
    return layouts


def _search(folder: Path, split: str, depth: int) -> list[Layout]:
    try:
        folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    except OSError:
        return []
    infrared = next((folders[name] for name in _INFRARED_NAMES if name in folders), None)
    visible = next((folders[name] for name in _VISIBLE_NAMES if name in folders), None)
    if infrared and visible:
        return _inner_splits(infrared, visible) or [Layout(split, infrared, visible)]
    if depth == 0:
        return []
    found = []
    for name, path in folders.items():
        if not name.startswith("."):
            found += _search(path, _SPLITS.get(name, split), depth - 1)
    return found


def _inner_splits(infrared: Path, visible: Path) -> list[Layout]:
    names = sorted(name for name in _SPLITS if (infrared / name).is_dir() and (visible / name).is_dir())
    return [Layout(_SPLITS[name], infrared / name, visible / name) for name in names]
