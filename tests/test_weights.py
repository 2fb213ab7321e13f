"""Weights files: formats, half precision, hashes, atomic writes, and the commands `convert` and `weights`."""

import os
import subprocess
import sys

import formula
import numpy as np
import pytest
import safetensors.numpy

from esr_lefuse_jax import cli
from esr_lefuse_jax.errors import CheckpointError, OutputError
from esr_lefuse_jax.weights import (
    load_weights,
    save_orbax,
    save_pth,
    save_safetensors,
    weights_hash,
)
from weights_conversion.convert import flatten, from_state_dict, unflatten
from weights_conversion.pth_writer import write_pth


@pytest.fixture(scope="module")
def variables():
    return {name: unflatten(from_state_dict(formula.state_dict(name)).arrays) for name in ("fusion", "sr")}


@pytest.fixture
def run(capsys):
    def _run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


def _assert_same(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for path, array in a.items():
        assert array.dtype == b[path].dtype
        np.testing.assert_array_equal(array, b[path])


@pytest.mark.parametrize("network", ["fusion", "sr"])
def test_every_format_gives_the_same_back(tmp_path, variables, network):
    expected = variables[network]
    save_safetensors(tmp_path / "w.safetensors", network, expected, {"data": "none"})
    save_orbax(tmp_path / "orbax", network, expected, {"data": "none"})
    save_pth(tmp_path / "w.pth", network, expected)
    for name in ("w.safetensors", "orbax", "w.pth"):
        loaded = load_weights(tmp_path / name)
        assert loaded.network == network
        assert loaded.metadata["sha256"] == weights_hash(expected)
        assert loaded.metadata.get("data") == (None if name == "w.pth" else "none")
        assert loaded.metadata.get("scale") == ("4" if network == "sr" else None)
        _assert_same(loaded.variables, expected)
        assert load_weights(tmp_path / name, network).network == network
        with pytest.raises(CheckpointError, match=f"holds the {network} network, not"):
            load_weights(tmp_path / name, "sr" if network == "fusion" else "fusion")


def test_the_content_decides_not_the_name(tmp_path, variables):
    save_safetensors(tmp_path / "w.pth", "sr", variables["sr"])
    save_pth(tmp_path / "w.safetensors", "sr", variables["sr"])
    assert (
        load_weights(tmp_path / "w.pth").network == load_weights(tmp_path / "w.safetensors").network == "sr"
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision_storage(tmp_path, variables, dtype, tolerance):
    save_safetensors(tmp_path / "full.safetensors", "fusion", variables["fusion"])
    digest = save_safetensors(tmp_path / "half.safetensors", "fusion", variables["fusion"], dtype=dtype)
    size = (tmp_path / "half.safetensors").stat().st_size
    assert size < 0.52 * (tmp_path / "full.safetensors").stat().st_size
    loaded = load_weights(tmp_path / "half.safetensors")
    assert loaded.metadata["sha256"] == digest == weights_hash(loaded.variables)
    for path, array in flatten(variables["fusion"]).items():
        found = flatten(loaded.variables)[path]
        assert found.dtype == array.dtype
        if array.ndim > 1:
            np.testing.assert_allclose(found, array, rtol=tolerance, atol=1e-7)
        else:
            np.testing.assert_array_equal(found, array)
    # What was rounded once stays: stored again it is the same.
    assert save_safetensors(tmp_path / "again.safetensors", "fusion", loaded.variables, dtype=dtype) == digest


def test_float16_overflow_is_refused(tmp_path, variables):
    flat = {path: array.copy() for path, array in flatten(variables["sr"]).items()}
    flat["params/head/kernel"][0, 0, 0, 0] = 1e5
    with pytest.raises(CheckpointError, match="params/head/kernel does not fit in float16"):
        save_safetensors(tmp_path / "x.safetensors", "sr", unflatten(flat), dtype="float16")
    with pytest.raises(CheckpointError, match="cannot store 'int8'"):
        save_safetensors(tmp_path / "x.safetensors", "sr", unflatten(flat), dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_any_memory_order(tmp_path, variables):
    flat = {path: np.asfortranarray(array) for path, array in flatten(variables["sr"]).items()}
    save_safetensors(tmp_path / "x.safetensors", "sr", unflatten(flat))
    _assert_same(load_weights(tmp_path / "x.safetensors").variables, variables["sr"])
    assert weights_hash(unflatten(flat)) == weights_hash(variables["sr"])


def test_the_hash_depends_on_everything():
    base = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    others = [
        {"params": {"b": base["params"]["a"]}},
        {"params": {"a": base["params"]["a"].reshape(3, 2)}},
        {"params": {"a": base["params"]["a"].astype(np.float64)}},
        {"params": {"a": -base["params"]["a"]}},
    ]
    assert len({weights_hash(tree) for tree in [base, *others]}) == 5
    assert weights_hash(base) == weights_hash({"params": {"a": base["params"]["a"].copy()}})


def test_flipped_bits_are_found(tmp_path, variables):
    path = tmp_path / "w.safetensors"
    save_safetensors(path, "sr", variables["sr"])
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little") + 8
    rng = np.random.default_rng(0)
    for position in rng.integers(header, len(content), 20):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"SHA-256|not finite"):
            load_weights(path)


def test_damaged_safetensors(tmp_path, variables):
    path = tmp_path / "w.safetensors"
    save_safetensors(path, "sr", variables["sr"])
    content = path.read_bytes()
    for bad in (content[:-1], content[:1000], content[:100], content[:8] + b"{" + b"x" * 5000):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="truncated or damaged safetensors"):
            load_weights(path)
    for bad, message in ((b"", "empty"), (b"<html>", "web page"), (b"garbage!", "no weights file")):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=message):
            load_weights(path)


def test_safetensors_with_torch_keys(tmp_path):
    state = {f"module.{key}": array for key, array in formula.state_dict("sr").items()}
    safetensors.numpy.save_file(state, tmp_path / "x.safetensors", {"format": "pt", "sha256": "theirs"})
    loaded = load_weights(tmp_path / "x.safetensors")
    assert loaded.network == "sr"
    np.testing.assert_array_equal(loaded.variables["params"]["head"]["bias"], state["module.head.0.bias"])


def test_the_library_reads_what_is_written(tmp_path, variables):
    save_safetensors(tmp_path / "x.safetensors", "fusion", variables["fusion"])
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    _assert_same(unflatten(found), variables["fusion"])


def test_orbax_folders_that_are_refused(tmp_path, variables):
    with pytest.raises(CheckpointError, match="neither an Orbax folder"):
        load_weights(tmp_path)
    save_orbax(tmp_path / "orbax", "sr", variables["sr"])
    with pytest.raises(OutputError, match="exists already"):
        save_orbax(tmp_path / "orbax", "sr", variables["sr"])
    with pytest.raises(OutputError, match="does not exist"):
        save_orbax(tmp_path / "absent" / "orbax", "sr", variables["sr"])
    largest = max((tmp_path / "orbax").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_weights(tmp_path / "orbax")


def test_folders_of_a_training_run(tmp_path, variables):
    """A run's folder stands for its best weights, a checkpoint's for the network that is asked for."""
    import orbax.checkpoint as ocp

    run = tmp_path / "run"
    run.mkdir()
    with ocp.CheckpointManager(run / "checkpoints") as manager:
        items = {name: ocp.args.StandardSave(tree) for name, tree in variables.items()}
        manager.save(7, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
    step = run / "checkpoints" / "7"
    for name in ("fusion", "sr"):
        _assert_same(load_weights(step, name).variables, variables[name])
        _assert_same(load_weights(step / name).variables, variables[name])
    with pytest.raises(CheckpointError, match=r"holds several networks; name .*fusion or .*sr"):
        load_weights(step)
    with pytest.raises(CheckpointError, match="nor a training run with best weights"):
        load_weights(run, "sr")
    save_safetensors(run / "best_sr.safetensors", "sr", variables["sr"])
    assert load_weights(run).path == load_weights(run, "sr").path == run / "best_sr.safetensors"
    with pytest.raises(CheckpointError, match="nor a training run with best weights"):
        load_weights(run, "fusion")


def test_nothing_is_written_when_the_variables_do_not_fit(tmp_path, variables):
    flat = flatten(variables["sr"])
    broken = unflatten(flat | {"params/head/bias": np.full(64, np.nan, np.float32)})
    for save in (save_safetensors, save_orbax, save_pth):
        with pytest.raises(CheckpointError, match="not finite"):
            save(tmp_path / "out", "sr", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, variables, monkeypatch):
    for name, save in (("w.safetensors", save_safetensors), ("w.pth", save_pth)):
        path = tmp_path / name
        path.write_bytes(b"old")

        def full_disk(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full_disk)
            with pytest.raises(OutputError, match="disk is full"):
                save(path, "sr", variables["sr"])
        assert path.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["w.pth", "w.safetensors"]


def test_loading_imports_no_jax(tmp_path, variables):
    # Refusals and conversions answer at once: JAX is imported for Orbax folders only.
    save_safetensors(tmp_path / "w.safetensors", "sr", variables["sr"])
    code = (
        "import sys; from esr_lefuse_jax.weights import load_weights; load_weights(sys.argv[1]); "
        "print(sorted({'jax', 'flax', 'orbax', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "w.safetensors"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# Commands


def test_convert_round_trip(tmp_path, run):
    write_pth(tmp_path / "L2025.pth", formula.state_dict("fusion"), "model")
    code, out, _ = run("convert", tmp_path / "L2025.pth", tmp_path / "f.safetensors")
    assert code == 0
    assert "fusion network" in out
    assert "3,898,345" in out
    assert run("convert", tmp_path / "f.safetensors", tmp_path / "orbax")[0] == 0
    assert run("convert", tmp_path / "orbax", tmp_path / "back.pth")[0] == 0
    assert (tmp_path / "back.pth").read_bytes() == (tmp_path / "L2025.pth").read_bytes()
    assert load_weights(tmp_path / "f.safetensors").metadata["converted_from"] == "L2025.pth"


def test_convert_names_ignored_keys(tmp_path, run):
    state = formula.state_dict("fusion") | {"content.normalize.weight": np.zeros(3, np.float32)}
    write_pth(tmp_path / "x.pth", state)
    code, out, _ = run("convert", tmp_path / "x.pth", tmp_path / "x.safetensors", "--dtype", "bfloat16")
    assert code == 0
    assert "content.normalize.weight: part of the perceptual loss" in out


@pytest.mark.parametrize(
    ("output", "flags", "message"),
    [
        ("x.onnx", [], "unknown ending '.onnx'"),
        ("x.pth", ["--dtype", "float16"], "for .safetensors only"),
        ("absent/x.pth", [], "does not exist: create it first"),
        ("x.pth", ["--network", "fusion"], "holds the sr network, not the fusion network"),
    ],
)
def test_convert_refusals(tmp_path, run, output, flags, message):
    write_pth(tmp_path / "sr.pth", formula.state_dict("sr"))
    code, _, err = run("convert", tmp_path / "sr.pth", tmp_path / output, *flags)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["sr.pth"]


def test_convert_writes_nothing_for_a_bad_file(tmp_path, run):
    state = formula.state_dict("sr")
    state["head.0.bias"] = np.full(64, np.inf, np.float32)
    del state["refine.2.bias"]
    write_pth(tmp_path / "sr.pth", state)
    code, _, err = run("convert", tmp_path / "sr.pth", tmp_path / "out.safetensors")
    assert code == 2
    assert "refine.2.bias" in err
    assert "head.0.bias" in err
    assert [file.name for file in tmp_path.iterdir()] == ["sr.pth"]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak memory from /proc")
def test_a_refusal_is_fast_and_lean(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"<html>" + bytes(200_000_000))
    # VmHWM is the peak of the process itself; getrusage would also count the parent it was forked from.
    code = (
        "import re, time; from esr_lefuse_jax import cli; start = time.monotonic(); "
        "print(cli.main(['convert', 'x.pth', 'y.safetensors']), time.monotonic() - start, "
        "re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    exit_code, seconds, kilobytes = result.stdout.split()
    assert exit_code == "2"
    assert "web page" in result.stderr
    assert "Traceback" not in result.stderr
    assert float(seconds) < 5
    assert int(kilobytes) < 300_000


def test_weights_check(tmp_path, run):
    write_pth(tmp_path / "sr.pth", formula.state_dict("sr"))
    (tmp_path / "bad.pth").write_bytes(b"")
    code, out, _ = run("weights", "check", tmp_path / "bad.pth", tmp_path / "sr.pth")
    assert code == 1
    assert "bad.pth: is empty" in out
    assert "2,869,462" in out
    assert run("weights", "check", tmp_path / "sr.pth")[0] == 0
