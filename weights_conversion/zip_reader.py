"""A strict reader of the one kind of zip archive that holds PyTorch weights: stored, never compressed.

`torch.save` writes stored entries whose sizes and checksums stand in the central directory. Everything else
that the zip format allows (compression, encryption, overlapping or duplicate entries, several disks, data
before or after the archive) only ever serves a damaged or a hostile file here, so it is refused before a
byte of content is read. As packed and real size must be equal and entries may not overlap, no archive can
unpack to more than its own size.
"""

import itertools
import os
import stat
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from esr_lefuse_jax.errors import CheckpointError

LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
ZIP64_END_MAGIC, ZIP64_LOCATOR_MAGIC = b"PK\x06\x06", b"PK\x06\x07"

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_ZIP64_END = struct.Struct("<4sQ2H2I4Q")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")

_ENCRYPTED = 0x1
_MASK16, _MASK32 = 0xFFFF, 0xFFFFFFFF
# Bounds on what is read before anything is known to be sound; the largest published checkpoints stay far
# below.
MAX_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 32 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True, order=True)
class Entry:
    """One stored file of the archive: `size` bytes from byte `start` of the archive, with checksum `crc`."""

    name: str
    start: int
    size: int
    crc: int


@dataclass(frozen=True)
class _Record:
    """One record of the central directory, not yet compared with the file."""

    name: str
    header: int
    packed: int
    size: int
    crc: int
    flags: int
    method: int


def _nothing(_: Sequence[str]) -> None:
    return None


class StoredZip:
    """The entries of a stored-only zip archive, validated on construction.

    Attributes:
        entries: Name to `Entry`, in the order of the central directory.
    """

    def __init__(
        self, path: str | os.PathLike[str], explain: Callable[[Sequence[str]], str | None] = _nothing
    ):
        """Reads and checks the directory of the archive.

        Args:
            path: The file. It is opened for each read and never kept open.
            explain: Given all entry names, says what else the archive is, if not the kind that is wanted.

        Raises:
            CheckpointError: The file cannot be opened or is not such an archive.
        """
        self.path = Path(path)
        with open_checkpoint(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            self.entries: Mapping[str, Entry] = _read_directory(file, size, self.path, explain)

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Returns the content of entry `name` after its checksum was found right.

        Raises:
            CheckpointError: There is no such entry, it is larger than `limit` bytes, or its checksum is
                wrong.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(
                f"{self.path}: the archive has no {quoted(name)}; download or save it again"
            )
        if limit is not None and entry.size > limit:
            raise CheckpointError(
                f"{self.path}: {quoted(name)} has {entry.size:,} bytes, more than the {limit:,} "
                "that a checkpoint needs; save only the weights"
            )
        with open_checkpoint(self.path) as file:
            file.seek(entry.start)
            content = file.read(entry.size)
        self._compare(entry, len(content), zlib.crc32(content))
        return content

    def verify(self) -> None:
        """Compares every entry with its checksum, a megabyte at a time.

        Raises:
            CheckpointError: Naming the first entry whose content is not what was written.
        """
        with open_checkpoint(self.path) as file:
            for entry in self.entries.values():
                file.seek(entry.start)
                crc, left = 0, entry.size
                while left and (chunk := file.read(min(left, _CHUNK))):
                    crc, left = zlib.crc32(chunk, crc), left - len(chunk)
                self._compare(entry, entry.size - left, crc)

    def _compare(self, entry: Entry, size: int, crc: int) -> None:
        if size != entry.size or crc != entry.crc:
            raise CheckpointError(
                f"{self.path}: damaged: the checksum (CRC-32) of {quoted(entry.name)} is wrong; "
                "download or copy it again"
            )


def quoted(name: object, limit: int = 100) -> str:
    """A name out of a file, safe to print: escaped, and shortened to about `limit` characters."""
    text = str(name)
    return repr(text if len(text) <= limit else text[:limit] + "...")


def open_checkpoint(path: Path) -> BinaryIO:
    """Opens a weights file for reading; an operating-system error becomes a `CheckpointError`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not path.is_dir():
            raise CheckpointError(f"{path}: is not a regular file")  # opening a pipe would wait for ever
        return open(path, "rb")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder, not a file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged zip archive: {what}; download or copy it again")


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: refused: {what}; torch.save never writes this")


def _read_directory(
    file: BinaryIO, file_size: int, path: Path, explain: Callable[[Sequence[str]], str | None]
) -> dict[str, Entry]:
    count, directory_size, directory_start, end = _find_end(file, file_size, path)
    if count > MAX_ENTRIES or directory_size > MAX_DIRECTORY_BYTES:
        raise _refused(path, f"a directory of {count:,} entries and {directory_size:,} bytes")
    if directory_start + directory_size != end:
        raise _damaged(path, "the central directory is not where the end record says")
    file.seek(directory_start)
    directory = file.read(directory_size)
    records = []
    position = 0
    for _ in range(count):
        position, record = _parse_central(directory, position, path)
        records.append(record)
    if position != len(directory):
        raise _damaged(path, "the central directory has bytes left over")
    problem = explain([record.name for record in records])
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    entries: dict[str, Entry] = {}
    for record in records:
        if record.name in entries:
            raise _refused(path, f"two entries named {quoted(record.name)}")
        entries[record.name] = _locate(file, record, directory_start, path)
    spans = sorted((record.header, entries[record.name]) for record in records)
    for (_, before), (start, after) in itertools.pairwise(spans):
        if start < before.start + before.size:
            raise _refused(path, f"entries {quoted(before.name)} and {quoted(after.name)} overlap")
    return entries


def _find_end(file: BinaryIO, file_size: int, path: Path) -> tuple[int, int, int, int]:
    """Returns (number of entries, directory size, directory start, start of the end records)."""
    tail_size = min(file_size, _END.size + _MASK16)
    file.seek(file_size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(END_MAGIC)
    while at >= 0:
        if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
            break
        at = tail.rfind(END_MAGIC, 0, at)
    if at < 0:
        raise CheckpointError(
            f"{path}: truncated: the end of the zip archive is missing; download or copy it again"
        )
    _, disk, first_disk, here, count, size, start, _ = _END.unpack_from(tail, at)
    if disk or first_disk or here != count:
        raise _refused(path, "an archive over several disks")
    end = file_size - tail_size + at
    if end < _ZIP64_LOCATOR.size:
        return count, size, start, end
    file.seek(end - _ZIP64_LOCATOR.size)
    magic, disk, zip64_start, disks = _ZIP64_LOCATOR.unpack(file.read(_ZIP64_LOCATOR.size))
    if magic != ZIP64_LOCATOR_MAGIC:
        return count, size, start, end
    if disk or disks != 1 or zip64_start + _ZIP64_END.size != end - _ZIP64_LOCATOR.size:
        raise _damaged(path, "the zip64 locator points nowhere")
    file.seek(zip64_start)
    magic, _, _, _, disk, first_disk, here64, count64, size64, start64 = _ZIP64_END.unpack(
        file.read(_ZIP64_END.size)
    )
    if magic != ZIP64_END_MAGIC or disk or first_disk or here64 != count64:
        raise _damaged(path, "the zip64 end record is not sound")
    for short, long, mask in ((count, count64, _MASK16), (size, size64, _MASK32), (start, start64, _MASK32)):
        if short not in (long, mask):
            raise _damaged(path, "its two end records differ")
    return count64, size64, start64, zip64_start


def _parse_central(directory: bytes, position: int, path: Path) -> tuple[int, _Record]:
    """Returns (position after the record, the record)."""
    if position + _CENTRAL.size > len(directory):
        raise _damaged(path, "the central directory is cut short")
    fields = _CENTRAL.unpack_from(directory, position)
    magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size = fields[:13]
    disk, header = fields[13], fields[16]
    name_start = position + _CENTRAL.size
    extra_start = name_start + name_size
    stop = extra_start + extra_size + comment_size
    if magic != CENTRAL_MAGIC or stop > len(directory):
        raise _damaged(path, "the central directory is not sound")
    name = _decode_name(directory[name_start:extra_start], path)
    if disk:
        raise _refused(path, "an archive over several disks")
    if _MASK32 in (packed, size, header):
        extra = directory[extra_start : extra_start + extra_size]
        size, packed, header = _zip64_sizes(extra, (size, packed, header), path)
    return stop, _Record(name, header, packed, size, crc, flags, method)


def _zip64_sizes(extra: bytes, short: tuple[int, int, int], path: Path) -> tuple[int, int, int]:
    """Takes (size, packed size, header start) from the zip64 extra field where 32 bits are too few."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if tag == 1 and len(body) >= 8 * short.count(_MASK32):
            values = iter(struct.unpack_from(f"<{short.count(_MASK32)}Q", body))
            size, packed, header = (next(values) if value == _MASK32 else value for value in short)
            return size, packed, header
    raise _damaged(path, "a zip64 size is missing")


def _decode_name(raw: bytes, path: Path) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _damaged(path, "an entry name is not text") from None
    parts = name.split("/")
    if (
        not name
        or "\\" in name
        or ":" in name
        or not name.isprintable()
        or any(p in ("", ".", "..") for p in parts)
    ):
        raise _refused(path, f"an entry named {quoted(name)}")
    return name


def _locate(file: BinaryIO, record: _Record, directory_start: int, path: Path) -> Entry:
    """Finds where the content starts: after the local header, which must agree with the central directory."""
    name = quoted(record.name)
    if record.flags & _ENCRYPTED:
        raise _refused(path, f"{name} is encrypted")
    if record.method:
        raise _refused(path, f"{name} is compressed (method {record.method})")
    if record.packed != record.size:
        raise _refused(path, f"{name} claims {record.size:,} bytes in {record.packed:,} stored ones")
    if record.header + _LOCAL.size > directory_start:
        raise _damaged(path, f"{name} lies outside the file")
    file.seek(record.header)
    magic, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack(file.read(_LOCAL.size))
    if magic != LOCAL_MAGIC or method or flags & _ENCRYPTED:
        raise _damaged(path, f"the header of {name} is not sound")
    # The checksum and sizes here are often 0 (they follow the content); the directory's are the ones to use.
    if file.read(name_size) != record.name.encode():
        raise _damaged(path, f"{name} has another name in its own header")
    start = record.header + _LOCAL.size + name_size + extra_size
    if start + record.size > directory_start:
        raise _damaged(path, f"{name} lies outside the file")
    return Entry(record.name, start, record.size, record.crc)
