"""Reads PyTorch `.pth` files without PyTorch and without running what is in them.

A `.pth` of PyTorch 1.6 or newer is a stored zip archive: `NAME/data.pkl`, a pickle that describes the
tensors, and `NAME/data/0`, `NAME/data/1`, ..., their numbers. The archive is checked by `zip_reader`, the
pickle decoded by `pickle_machine` (which can call nothing but the few functions of `tensors`), and every
claim about sizes is compared with the archive before memory is reserved.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.pickle_machine import PickleMachine
from weights_conversion.tensors import TORCH_GLOBALS, Storages
from weights_conversion.zip_reader import LOCAL_MAGIC, StoredZip, open_checkpoint, quoted

MAX_PICKLE_BYTES = 16 << 20
# torch.save before 1.6: a pickled magic number comes first.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_RESAVE = "load it in PyTorch and save it again with torch.save(state_dict, FILE)"
_HEAD_BYTES = 1024


def read_pth(path: str | os.PathLike[str]) -> Any:
    """Reads what `torch.save` wrote, tensors left in the file.

    Args:
        path: A `.pth` or `.pt` file in PyTorch's zip format.

    Returns:
        The saved value: dicts, lists, tuples, text and numbers with a `tensors.StoredTensor` for each tensor,
            whose `numpy()` reads it.

    Raises:
        CheckpointError: The file is missing, damaged, of another format, or contains anything but tensors and
            plain data; the message says which.
    """
    path = Path(path)
    with open_checkpoint(path) as file:
        head = file.read(_HEAD_BYTES)
    problem = describe_wrong_format(head)
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    archive = StoredZip(path, _explain)
    folder = next(n for n in archive.entries if n.endswith("/data.pkl")).removesuffix("/data.pkl")
    byte_order = f"{folder}/byteorder"
    if byte_order in archive.entries and archive.read(byte_order, limit=64).strip() != b"little":
        raise CheckpointError(f"{path}: was saved on a big-endian machine; {_RESAVE} on a little-endian one")
    pickle = archive.read(f"{folder}/data.pkl", limit=MAX_PICKLE_BYTES)
    storages = Storages(archive, folder)
    value = PickleMachine(pickle, TORCH_GLOBALS, storages.persistent_load, str(path)).load()
    archive.verify()
    return value


def describe_wrong_format(head: bytes) -> str | None:
    """Says what a file that is no zip archive is, given its first kilobyte; None if it may be one."""
    if head.startswith(LOCAL_MAGIC):
        return None
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty (0 bytes); download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights; run 'git lfs pull' in its repository"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return "is a web page, not weights (an error or log-in page, perhaps); download the file itself"
    if head.startswith(_LEGACY_MAGIC):
        return f"is in PyTorch's legacy format (before 1.6), which is not read; {_RESAVE}"
    if head[257:262] == b"ustar":
        return f"is a tar archive (PyTorch before 0.4, or a packed download); unpack it, or {_RESAVE}"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return f"is a bare pickle, which could run code and is never opened; {_RESAVE}"
    if head.startswith(b"PK"):
        return "is a damaged or empty zip archive; download or copy it again"
    if is_safetensors(head):
        return "is a safetensors file, not a PyTorch .pth"
    if head.startswith((b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")):
        return "is a compressed file; unpack it first"
    return (
        f"is no weights file (it starts with {head[:12]!r}); expected .pth, .safetensors or an Orbax folder"
    )


def is_safetensors(head: bytes) -> bool:
    """Whether a file with these first bytes is safetensors: the length of a JSON header, then the header."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_PICKLE_BYTES


def _explain(names: Sequence[str]) -> str | None:
    """Says what an archive with these entries is, when it is not a checkpoint."""
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return (
            "is a TorchScript program, not weights; in PyTorch: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    found = sum(name.endswith("/data.pkl") for name in names)
    if found == 1:
        return None
    if found:
        return f"refused: {found} entries end in '/data.pkl', one is expected"
    if names and all(name.endswith(".npy") for name in names):
        return "is a NumPy .npz archive; expected torch.save's zip format"
    listing = ", ".join(quoted(name, 40) for name in names[:3]) or "nothing"
    return f"is a zip archive without a 'data.pkl', so not a PyTorch checkpoint (it holds {listing})"
