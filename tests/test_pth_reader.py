"""The `.pth` reader against hostile, damaged and foreign files (no PyTorch needed)."""

import builtins
import io
import os
import pickle
import tarfile
import time
import zipfile

import numpy as np
import pytest
from pth_files import (
    ORDERED_DICT,
    PKL,
    memory_below,
    name,
    number,
    raw_entry,
    tensor_pickle,
    text,
    write_archive,
    write_raw_archive,
    write_small,
)

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.pickle_machine import MAX_OPCODES, UnsafePickleError
from weights_conversion.pth_reader import MAX_PICKLE_BYTES, read_pth

COMMAND = "touch {}"


def _hostile_pickles(command):
    """Kind to (pickle that would run `command` in the standard unpickler, what the refusal must name)."""
    argument = text(command)
    return {
        "GLOBAL": (b"\x80\x02" + name("os", "system") + argument + b"\x85R.", "os.system"),
        "GLOBAL posix": (b"\x80\x02" + name("posix", "system") + argument + b"\x85R.", "posix.system"),
        "STACK_GLOBAL": (
            b"\x80\x04" + text("os") + text("system") + b"\x93" + argument + b"\x85R.",
            "os.system",
        ),
        "INST": (b"\x80\x02(" + argument + b"ios\nsystem\n.", "INST"),
        "OBJ": (b"\x80\x02(" + name("subprocess", "Popen") + argument + b"o.", "subprocess.Popen"),
        "bare OBJ": (b"\x80\x02(" + name("torch", "Size") + argument + b"o.", "OBJ"),
        "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
        "dotted name": (
            b"\x80\x04" + text("torch") + text("storage.os.system") + b"\x93" + argument + b"\x85R.",
            "torch.storage.os.system",
        ),
        "dotted name of an allowed global": (
            b"\x80\x04" + text("torch") + text("_utils._rebuild_tensor_v2") + b"\x93.",
            "torch._utils._rebuild_tensor_v2",
        ),
        "NEWOBJ": (b"\x80\x02" + name("subprocess", "Popen") + argument + b"\x85\x81.", "subprocess.Popen"),
        "bare NEWOBJ": (b"\x80\x02" + name("collections", "OrderedDict") + b")\x81.", "NEWOBJ"),
        "NEWOBJ_EX": (b"\x80\x04" + name("torch", "Size") + b")}\x92.", "NEWOBJ_EX"),
        "BUILD": (b"\x80\x02}" + text("__setstate__") + argument + b"s}b.", "BUILD"),
        "BUILD of a global": (b"\x80\x02" + name("torch", "Size") + b"}b.", "BUILD"),
        "REDUCE of a name": (
            b"\x80\x02" + name("torch", "FloatStorage") + number(9) + b"\x85R.",
            "torch.FloatStorage",
        ),
        "REDUCE of a value": (b"\x80\x02" + argument + b")R.", "REDUCE"),
        "builtins": (b"\x80\x02" + name("builtins", "getattr") + argument + b"\x85R.", "builtins.getattr"),
        "nested load": (
            b"\x80\x02" + name("torch.storage", "_load_from_bytes") + argument + b"\x85R.",
            "torch.storage._load_from_bytes",
        ),
        "text persistent id": (b"\x80\x02Pstorage\n.", "PERSID"),
        "hidden second pickle": (b"\x80\x02}.cos\nsystem\n(" + argument + b"tR.", "after the end"),
    }


@pytest.mark.parametrize("kind", _hostile_pickles(""))
def test_code_executing_pickle_is_refused(tmp_path, kind):
    witness = tmp_path / "witness"
    content, named = _hostile_pickles(COMMAND.format(witness))[kind]
    path = write_archive(tmp_path / "evil.pth", content)
    with pytest.raises(UnsafePickleError) as refusal:
        read_pth(path)
    assert named in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not witness.exists()


def test_the_hostile_pickles_are_real(tmp_path):
    # The first two run in the standard unpickler: what is refused above is no straw man.
    for kind in ("GLOBAL", "STACK_GLOBAL", "INST"):
        witness = tmp_path / kind
        content, _ = _hostile_pickles(COMMAND.format(witness))[kind]
        pickle.Unpickler(io.BytesIO(content)).load()
        assert witness.exists()


def test_reading_imports_and_calls_nothing(tmp_path, monkeypatch):
    write_small(tmp_path / "small.pth")
    content, _ = _hostile_pickles("true")["GLOBAL"]
    write_archive(tmp_path / "evil.pth", content)
    with pytest.raises(CheckpointError):
        read_pth(tmp_path / "evil.pth")  # warms every import of the refusal itself
    called = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setattr(builtins, "__import__", lambda *args, **kwargs: called.append(args))
    try:
        read_pth(tmp_path / "small.pth")
        with pytest.raises(CheckpointError):
            read_pth(tmp_path / "evil.pth")
    finally:
        monkeypatch.undo()
    assert called == []


@pytest.mark.parametrize(
    "pid",
    [
        text("storage"),
        b"(" + text("module") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(4) + b"t",
        b"(" + text("storage") + text("FloatStorage") + text("0") + text("cpu") + number(4) + b"t",
        b"(" + text("storage") + name("torch", "Size") + text("0") + text("cpu") + number(4) + b"t",
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text("../data/0")
        + text("cpu")
        + number(4)
        + b"t",
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text("/etc/passwd")
        + text("cpu")
        + number(4)
        + b"t",
        b"(" + text("storage") + name("torch", "FloatStorage") + number(0) + text("cpu") + number(4) + b"t",
        b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(-4) + b"t",
        b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"\x88t",
    ],
)
def test_persistent_id_tricks(tmp_path, pid):
    write_archive(tmp_path / "x.pth", b"\x80\x02" + pid + b"Q.", [bytes(16)])
    with pytest.raises(CheckpointError, match="storage"):
        read_pth(tmp_path / "x.pth")


def test_one_storage_under_two_types(tmp_path):
    def storage(kind, numel):
        kind = name("torch", kind)
        return b"(" + text("storage") + kind + text("0") + text("cpu") + number(numel) + b"tQ"

    content = b"\x80\x02(" + storage("FloatStorage", 4) + storage("LongStorage", 2) + b"t."
    write_archive(tmp_path / "x.pth", content, [bytes(16)])
    with pytest.raises(CheckpointError, match="used as int64 and as float32"):
        read_pth(tmp_path / "x.pth")


GEOMETRY = {
    "size lie": (dict(size=(4,), stride=(1,), numel=2**40), "claims"),
    "size lie by one": (dict(size=(4,), stride=(1,), numel=5), "claims"),
    "stride 0, 4 TiB": (dict(size=(2**20, 2**20), stride=(0, 0)), "in a storage of 4"),
    "stride 0, beyond 64 bits": (dict(size=(2**39,) * 8, stride=(0,) * 8), "more than 2\\^63"),
    "negative size": (dict(size=(-4,), stride=(1,)), "non-negative"),
    "negative stride": (dict(size=(4,), stride=(-1,)), "non-negative"),
    "negative offset": (dict(size=(4,), stride=(1,), offset=-1), "offset"),
    "offset beyond": (dict(size=(2,), stride=(1,), offset=3), "beyond its storage"),
    "stride beyond": (dict(size=(2, 2), stride=(3, 1)), "beyond its storage"),
    "rank differs": (dict(size=(2, 2), stride=(1,)), "strides"),
    "rank 100": (dict(size=(1,) * 100, stride=(1,) * 100), "100 sizes"),
    "empty but vast": (dict(size=(0, 2**60), stride=(1, 1)), "impossible size"),
    "unknown storage": (dict(size=(4,), stride=(1,), key="7"), "not in the archive"),
}


@pytest.mark.parametrize("case", GEOMETRY)
def test_lying_geometry_is_refused_without_allocation(tmp_path, case):
    claims, message = GEOMETRY[case]
    write_archive(tmp_path / "x.pth", tensor_pickle(**claims), [bytes(16)])
    start = time.monotonic()
    with memory_below(1 << 20), pytest.raises(CheckpointError, match=message):
        read_pth(tmp_path / "x.pth")
    assert time.monotonic() - start < 5


def test_views_are_read_as_torch_reads_them(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    for size, stride, offset, expected in (
        ((2, 3), (3, 1), 0, numbers.reshape(2, 3)),
        ((3, 2), (1, 3), 0, numbers.reshape(2, 3).T),
        ((2,), (2,), 1, numbers[[1, 3]]),
        ((), (), 5, numbers[5]),
        ((0, 3), (3, 1), 0, numbers[:0].reshape(0, 3)),
        ((2, 2), (1, 1), 0, np.array([[0, 1], [1, 2]], np.float32)),
    ):
        content = tensor_pickle(size, stride, offset, numel=6)
        write_archive(tmp_path / "x.pth", content, [numbers.tobytes()])
        tensor = read_pth(tmp_path / "x.pth")["w"]
        array = tensor.numpy()
        np.testing.assert_array_equal(array, expected)
        assert array.flags.c_contiguous
        assert array.shape == tensor.shape == expected.shape


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("DoubleStorage", np.array([0.1, -3], np.float64), None),
        ("HalfStorage", np.array([0.1, -3], np.float16), None),
        ("BFloat16Storage", np.array([0x3DCD, 0xC040], np.uint16), np.array([0.10009765625, -3], np.float32)),
        ("LongStorage", np.array([-(2**40), 7], np.int64), None),
        ("IntStorage", np.array([-5, 7], np.int32), None),
        ("ShortStorage", np.array([-5, 7], np.int16), None),
        ("CharStorage", np.array([-5, 7], np.int8), None),
        ("ByteStorage", np.array([5, 7], np.uint8), None),
        ("BoolStorage", np.array([True, False]), None),
    ],
)
def test_types(tmp_path, kind, values, expected):
    write_archive(tmp_path / "x.pth", tensor_pickle((2,), (1,), numel=2, kind=kind), [values.tobytes()])
    array = read_pth(tmp_path / "x.pth")["w"].numpy()
    expected = values if expected is None else expected
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == expected.dtype


def test_training_state_beside_the_weights(tmp_path):
    # What training loops save along: counters, nested dicts with integer keys, NumPy scalars, lists.
    dtype = name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R(" + number(3) + text("<") + b"NNN"
    dtype += number(-1) + number(-1) + number(0) + b"tb"
    raw = name("_codecs", "encode") + text(np.float64(0.5).tobytes().decode("latin1")) + text("latin1")
    scalar = name("numpy._core.multiarray", "scalar") + b"(" + dtype + raw + b"\x86RtR"
    model = tensor_pickle((4,), (1,))[2:-1]
    optimizer = b"}" + number(0) + b"}" + text("lr") + b"G?\xf0" + bytes(6) + b"ss"
    meta = ORDERED_DICT + b"}" + text("_metadata") + ORDERED_DICT + b"sb"
    content = (
        b"\x80\x02}("
        + (text("model") + model + text("epoch") + number(3) + text("best") + scalar)
        + (text("optimizer") + optimizer + text("log") + b"](" + number(1) + b"N\x88e" + text("meta") + meta)
        + b"u."
    )
    write_archive(tmp_path / "x.pth", content, [np.arange(4, dtype=np.float32).tobytes()])
    value = read_pth(tmp_path / "x.pth")
    assert value["epoch"] == 3
    assert value["best"] == 0.5
    assert value["optimizer"] == {0: {"lr": 1.0}}
    assert value["log"] == [1, None, True]
    assert value["meta"] == {}
    np.testing.assert_array_equal(value["model"]["w"].numpy(), np.arange(4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02" + b"}" * (MAX_OPCODES + 1) + b".", "opcodes"),
        (b"\x80\x02X" + b"\xff\xff\xff\x7f.", "ends too early"),
        (b"\x80\x02\x8b" + (2**30).to_bytes(4, "little") + b".", "integer"),
        (b"\x80\x02" + b"h\x05.", "memo entry 5"),
        (b"\x80\x02" + b"(((t.", "one value"),
        (b"\x80\x02}}Ns.", "dictionary key"),
        (b"\x80\x02})N" + b"s.", "dictionary key"),
        (b"\x80\x02}" + number(2**61 - 1) + b"Ns.", "dictionary key"),
        (b"\x80\x02" + ORDERED_DICT[:-2] + b"N\x85R.", "OrderedDict"),
        (b"", "ends too early"),
    ],
)
def test_malformed_pickle(tmp_path, content, message):
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        read_pth(write_archive(tmp_path / "x.pth", content))
    assert time.monotonic() - start < 5


def test_doubling_tuples_cost_nothing(tmp_path):
    # Sixty nested pairs of the same value: 2^60 leaves for anything that walks, hashes or prints them.
    content = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"q\x01."
    value = read_pth(write_archive(tmp_path / "x.pth", content))
    assert isinstance(value, tuple)
    with pytest.raises(CheckpointError, match="dictionary key"):
        read_pth(write_archive(tmp_path / "y.pth", b"\x80\x02}" + content[2:-1] + b"Ns."))


def test_pickle_size_limit(tmp_path):
    write_raw_archive(tmp_path / "x.pth", [raw_entry("archive/data.pkl", bytes(MAX_PICKLE_BYTES + 1))])
    with pytest.raises(CheckpointError, match="save only the weights"):
        read_pth(tmp_path / "x.pth")


def _tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    return buffer.getvalue()


WRONG_FORMATS = {
    "empty": (b"", "is empty"),
    "HTML": (b"\n<!DOCTYPE html><html><body>Not found", "web page"),
    "HTML in capitals": (b"<HTML>", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 16\n", "git lfs pull"),
    "legacy": (bytes.fromhex("80028a0a6cfc9c46f9206aa850192e8002") + bytes(50), "legacy format"),
    "raw pickle": (pickle.dumps({"w": [1.0]}, 2), "bare pickle"),
    "raw pickle, protocol 5": (pickle.dumps({"w": [1.0]}, 5), "bare pickle"),
    "tar": (_tar(), "tar archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "compressed"),
    "safetensors": ((100).to_bytes(8, "little") + b"{" + b" " * 99, "safetensors"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(30), "no weights file"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "empty zip"),
}


@pytest.mark.parametrize("case", WRONG_FORMATS)
def test_wrong_format_has_its_own_message(tmp_path, case):
    content, message = WRONG_FORMATS[case]
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_pth(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_messages_differ():
    assert len({message for _, message in WRONG_FORMATS.values()}) >= 10


def test_torchscript(tmp_path):
    extra = [("archive/code/__torch__/model.py", b"def forward(self): ...")]
    write_archive(tmp_path / "x.pth", PKL, extra=extra, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_pth(tmp_path / "x.pth")


def test_missing_file_folder_and_pipe(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_pth(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_pth(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_pth(tmp_path / "pipe.pth")


def test_big_endian(tmp_path):
    write_archive(tmp_path / "x.pth", PKL, extra=[("archive/byteorder", b"big")])
    with pytest.raises(CheckpointError, match="big-endian"):
        read_pth(tmp_path / "x.pth")


def test_every_truncation_is_refused(tmp_path):
    write_small(tmp_path / "small.pth")
    content = (tmp_path / "small.pth").read_bytes()
    for size in range(len(content)):
        (tmp_path / "cut.pth").write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            read_pth(tmp_path / "cut.pth")


def test_bit_flips_never_change_content(tmp_path):
    state = write_small(tmp_path / "small.pth")
    content = (tmp_path / "small.pth").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "flipped.pth"
    refused = loaded = 0
    for position in rng.choice(8 * len(content), size=2000, replace=False):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            found = {key: tensor.numpy() for key, tensor in read_pth(path).items()}
        except CheckpointError:
            refused += 1
            continue
        loaded += 1
        assert list(found) == list(state)
        for key, array in state.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)
    assert refused + loaded == 2000
    assert refused > 1000  # the rest hit fields without meaning: dates, versions, permissions
