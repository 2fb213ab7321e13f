"""What stands behind the figures: versions, inputs, hashes of weights."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.version import __version__

MANIFEST = ".esr_lefuse.json"  # as `inference.folder` names it, which would bring jax along
_PACKAGES = ("numpy", "pillow", "jax", "opencv-contrib-python-headless")


def versions() -> dict[str, str]:
    """Versions of the package and of what computes the figures; packages that are absent are left out."""
    found = {"esr-lefuse-jax": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def weights_hash(path: str | os.PathLike) -> str:
    """sha256 of a weights file; of a folder, over the names and hashes of its files.

    Raises:
      ConfigError: nothing is there, or it cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            listing = "".join(
                f"{weights_hash(file)}  {file.relative_to(path).as_posix()}\n" for file in files
            )
            return hashlib.sha256(listing.encode()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: weights cannot be read: {error.strerror or error}") from error


def manifest(folder: str | os.PathLike | None) -> dict[str, str]:
    """What inference left in its output folder about weights and options; empty when there is nothing."""
    if folder is None:
        return {}
    try:
        with open(Path(folder) / MANIFEST, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def record(
    inputs: dict[str, Any], weights: Mapping[str, str] | None = None, notes: Iterable[str] = ()
) -> dict[str, Any]:
    """The record of a run.

    Args:
      inputs: the folders and options as the user gave them; empty ones are left out.
      weights: sha256 by name of the weights that made the images.
      notes: what a reader of the figures has to know.
    """
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "inputs": {name: value for name, value in inputs.items() if value not in (None, [], "")},
        "weights": dict(weights or {}),
        "values": "0..255; gray = round(.299 R + .587 G + .114 B), ties up, quantised first; float64",
        "notes": list(notes),
    }
