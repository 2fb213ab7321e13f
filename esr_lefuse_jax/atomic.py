"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from esr_lefuse_jax.errors import OutputError

# What a killed process may leave behind; hidden, so that no listing of images or sets picks it up.
TEMPORARY_SUFFIX = ".part"


def _reason(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space or choose another folder"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"no permission to write in {folder}: choose another folder"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"the folder {folder} does not exist: create it first"
    return error.strerror or str(error)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its name once the block ends without an error.

    The data is on the disk (fsync) before the rename, so that neither a crash nor a full disk leaves part of
    a file under the final name. On any error the temporary file is removed and `path` stays as it was.

    Raises:
        OutputError: for every error of the operating system, naming `path` and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_reason(error, path.parent)}") from error


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable. Some network file systems refuse it; the data is safe all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` atomically; raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
