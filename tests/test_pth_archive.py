"""The zip archive of a `.pth`: structure, entries that lie, bombs (no PyTorch needed)."""

import io
import zipfile

import pytest
from pth_files import PKL, memory_below, raw_entry, write_raw_archive

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.pth_reader import read_pth

ARCHIVES = {
    "traversal": ([("archive/data.pkl", PKL), ("archive/../../x", b"")], "entry named"),
    "absolute": ([("/archive/data.pkl", PKL)], "entry named"),
    "backslash": ([("archive\\data.pkl", PKL)], "entry named"),
    "control character": ([("archive/data.pkl", PKL), ("archive/\x1b[31m", b"")], "entry named"),
    "not text": ([(b"archive/\xff\xfe", PKL)], "not text"),
    "duplicate": (
        [("archive/data.pkl", PKL), ("archive/data/0", b"a"), ("archive/data/0", b"b")],
        "two entries",
    ),
    "two pickles": ([("archive/data.pkl", PKL), ("other/data.pkl", PKL)], "2 entries end in"),
    "no pickle": ([("a/b.txt", b"hello")], "without a 'data.pkl'"),
    "numpy archive": ([("a.npy", b""), ("b.npy", b"")], "npz"),
    "nothing": ([], "zip archive"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archive_structure(tmp_path, case):
    entries, message = ARCHIVES[case]
    write_raw_archive(tmp_path / "x.pth", [raw_entry(*entry) for entry in entries])
    with pytest.raises(CheckpointError, match=message):
        read_pth(tmp_path / "x.pth")


LIES = {
    "compressed": (dict(method=8), "compressed"),
    "encrypted": (dict(flags=1), "encrypted"),
    "wrong size": (dict(size=10**9), "claims 1,000,000,000 bytes"),
    "wrong crc": (dict(crc=1), "checksum"),
}


@pytest.mark.parametrize("where", ["archive/data.pkl", "archive/data/0"])
@pytest.mark.parametrize("case", LIES)
def test_lying_entries(tmp_path, case, where):
    lie, message = LIES[case]
    entries = [("archive/data.pkl", PKL), ("archive/data/0", bytes(16))]
    raw = [raw_entry(n, content, **(lie if n == where else {})) for n, content in entries]
    with pytest.raises(CheckpointError, match=message):
        read_pth(write_raw_archive(tmp_path / "x.pth", raw))


def test_the_two_headers_of_an_entry_must_agree(tmp_path):
    entries = [raw_entry("archive/data.pkl", PKL), raw_entry("archive/data/0", b"zero")]
    others = [entries[0], raw_entry("archive/data/1", b"zero")]
    with pytest.raises(CheckpointError, match="another name in its own header"):
        read_pth(write_raw_archive(tmp_path / "x.pth", entries, locals_of=others))
    others = [entries[0], raw_entry("archive/data/0", b"zero", method=8)]
    with pytest.raises(CheckpointError, match="header of 'archive/data/0' is not sound"):
        read_pth(write_raw_archive(tmp_path / "x.pth", entries, locals_of=others))


def test_zip64(tmp_path):
    path = tmp_path / "x.pth"
    assert read_pth(write_raw_archive(path, [raw_entry("archive/data.pkl", PKL)], zip64=True)) == {}
    content = path.read_bytes()
    at = content.index(b"PK\x06\x07")
    path.write_bytes(content[: at + 8] + b"\xff" + content[at + 9 :])
    with pytest.raises(CheckpointError, match="zip64 locator"):
        read_pth(path)
    path.write_bytes(content.replace(b"PK\x06\x06", b"PK\x06\x00"))
    with pytest.raises(CheckpointError, match="zip64 end record"):
        read_pth(path)


def test_overlapping_entries(tmp_path):
    inner = raw_entry("archive/data/1", b"inner")
    outer = raw_entry("archive/data/0", inner[0] + bytes(8))
    entries = [raw_entry("archive/data.pkl", PKL), outer, inner]
    start = len(entries[0][0])
    offsets = [0, start, start + 30 + len("archive/data/0")]
    with pytest.raises(CheckpointError, match="overlap"):
        read_pth(write_raw_archive(tmp_path / "x.pth", entries, offsets))


def test_zip_bomb_is_refused_before_decompression(tmp_path):
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as entry,
    ):
        for _ in range(256):
            entry.write(bytes(1 << 20))
    (tmp_path / "bomb.pth").write_bytes(bomb.getvalue())
    assert len(bomb.getvalue()) < 300_000
    with memory_below(1 << 20), pytest.raises(CheckpointError, match="compressed"):
        read_pth(tmp_path / "bomb.pth")


def test_vast_directory_is_refused(tmp_path):
    end = b"PK\x05\x06" + b"\0\0\0\0" + b"\xfe\xff\xfe\xff" + (2**31).to_bytes(4, "little") * 2 + b"\0\0"
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04" + bytes(100) + end)
    with pytest.raises(CheckpointError, match="directory"):
        read_pth(tmp_path / "x.pth")
