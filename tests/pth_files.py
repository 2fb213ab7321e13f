"""Hand-made `.pth` files for the tests of the reader: sound ones, damaged ones and hostile ones."""

import contextlib
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np

from weights_conversion.pth_writer import encode_state

PKL = b"\x80\x02}."  # an empty dict
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def write_archive(path, pickle, storages=(), extra=(), compression=zipfile.ZIP_STORED):
    """A zip archive laid out like a `.pth`, with any bytes as its pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for index, content in enumerate(storages):
            archive.writestr(f"archive/data/{index}", content)
        for name, content in extra:
            archive.writestr(name, content)
    return path


def write_small(path, seed=0):
    """A small sound file; returns its arrays."""
    rng = np.random.default_rng(seed)
    state = {
        "conv.weight": rng.normal(size=(3, 2, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(size=3).astype(np.float32),
        "bn.num_batches_tracked": np.array(7, np.int64),
    }
    write_archive(path, encode_state(state), [array.tobytes() for array in state.values()])
    return state


def tensor_pickle(
    size, stride, offset=0, numel=4, kind="FloatStorage", key="0", rebuild="_rebuild_tensor_v2"
):
    """The pickle of {"w": tensor} with whatever geometry it claims; numbers of any size and sign."""
    storage = (
        b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel) + b"tQ"
    )  # fmt: skip
    numbers = number(offset) + numbers_tuple(size) + numbers_tuple(stride)
    tensor = name("torch._utils", rebuild) + b"(" + storage + numbers + b"\x89" + ORDERED_DICT + b"tR"
    return b"\x80\x02}" + text("w") + tensor + b"s."


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + raw


def numbers_tuple(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def raw_entry(entry_name, content, method=0, size=None, crc=None, flags=0):
    """(local header with content, central record without offset, name) of a zip entry that may lie."""
    raw_name = entry_name if isinstance(entry_name, bytes) else entry_name.encode()
    size = len(content) if size is None else size
    crc = zlib.crc32(content) if crc is None else crc
    common = struct.pack("<5H3I", 20, flags, method, 0, 0, crc, len(content), size)
    local = b"PK\x03\x04" + common + struct.pack("<2H", len(raw_name), 0) + raw_name + content
    central = (
        b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<5HI", len(raw_name), 0, 0, 0, 0, 0)
    )
    return local, central, raw_name


def write_raw_archive(path, entries, offsets=None, locals_of=None, zip64=False):
    """A zip archive of `raw_entry`s.

    `offsets` overrides where the directory says they start, `locals_of` the local headers; `zip64` adds the
    end records of large archives.
    """
    body, starts = b"", []
    for local, _, _ in locals_of or entries:
        starts.append(len(body))
        body += local
    directory = b"".join(
        central + struct.pack("<I", start) + raw_name
        for (_, central, raw_name), start in zip(entries, offsets or starts, strict=True)
    )
    count = len(entries)
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, len(directory), len(body), 0)
    if zip64:
        sizes = struct.pack("<4Q", count, count, len(directory), len(body))
        end64 = b"PK\x06\x06" + struct.pack("<Q2H2I", 44, 45, 45, 0, 0) + sizes
        locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(body) + len(directory), 1)
        end = (
            end64 + locator + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0)
        )
    path.write_bytes(body + directory + end)
    return path


@contextlib.contextmanager
def memory_below(limit):
    """Fails when Python and NumPy hold more than `limit` bytes more at any moment of the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
