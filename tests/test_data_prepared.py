import json
from copy import deepcopy

import numpy as np
import pytest

from esr_lefuse_jax.cli import main
from esr_lefuse_jax.data import prepared
from esr_lefuse_jax.data.pipeline import TrainingData
from esr_lefuse_jax.data.sources import SourceSpec, open_records
from esr_lefuse_jax.errors import ConfigError, PairError
from esr_lefuse_jax.images import read_infrared, read_visible, write_image

RNG = np.random.default_rng(11)


def put_pair(root, stem, *, bits=8, colour_infrared=False):
    for folder in ("ir", "vi"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    infrared = RNG.random((20, 28, 3) if colour_infrared else (20, 28)).astype(np.float32)
    write_image(root / "ir" / f"{stem}.png", infrared, bits=bits)
    write_image(root / "vi" / f"{stem}.jpg", RNG.random((20, 28, 3)))


@pytest.fixture(scope="module")
def prepared_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for stem in ("b", "a", "c", "d"):
        put_pair(root / "train", stem, bits=16 if stem == "c" else 8)
    put_pair(root / "test", "e")
    out = tmp_path_factory.mktemp("sets")
    assert main(["prepare-data", "--root", str(root), "--out_dir", str(out)]) == 0
    return root, out


def test_files_without_tensorflow(prepared_set):
    _, out = prepared_set
    folder = prepared.find(out)
    assert folder == out / "fusion_pairs" / "1.0.0"
    assert any("array_record" in path.name for path in folder.iterdir())
    assert [path.name for path in out.iterdir()] == ["fusion_pairs"], (
        "nothing else may be left beside the set"
    )
    assert json.loads((folder / "keys.json").read_text()) == {"train": ["a", "b", "c", "d"], "test": ["e"]}


def test_rows_are_the_files(prepared_set):
    root, out = prepared_set
    table = prepared.Table(prepared.find(out))
    assert table.keys == ["a", "b", "c", "d"]
    row = table.row(1)
    assert row["visible"] == (root / "train/vi/b.jpg").read_bytes()
    assert row["infrared"] == (root / "train/ir/b.png").read_bytes()
    # 16 bits were scaled as documented and stored in 8.
    np.testing.assert_allclose(
        read_infrared(table.row(2)["infrared"]), read_infrared(root / "train/ir/c.png"), atol=0.6 / 255
    )
    assert prepared.Table(prepared.find(out), for_validation=True).keys == ["e"]
    again = deepcopy(table)  # the state that a worker process gets, through the same protocol as pickle
    assert again.row(3)["key"] == table.row(3)["key"]


def test_keys_are_read_from_the_rows_when_the_list_is_gone(prepared_set, tmp_path):
    _, out = prepared_set
    copy = tmp_path / "fusion_pairs" / "1.0.0"
    copy.mkdir(parents=True)
    for path in prepared.find(out).iterdir():
        if path.name != "keys.json":
            (copy / path.name).write_bytes(path.read_bytes())
    assert prepared.Table(copy).keys == ["a", "b", "c", "d"]


def test_anybody_can_read_it(prepared_set):
    import tensorflow_datasets as tfds

    root, out = prepared_set
    example = tfds.builder_from_directory(prepared.find(out)).as_data_source("train")[0]
    assert example["visible"].shape == (20, 28, 3)
    np.testing.assert_array_equal(example["visible"], np.round(read_visible(root / "train/vi/a.jpg") * 255))


def test_training_reads_it_as_it_reads_the_folder(prepared_set):
    root, out = prepared_set
    data = TrainingData(stage="fusion", train=str(out), crop=16, batch_size=2, validation_share=0.0)
    assert data.examples == 4
    assert next(data.batches(0))["visible"].shape == (2, 16, 16, 3)
    from_set, from_folder = (open_records(SourceSpec("pairs", path, 1.0)) for path in (out, root))
    assert len(from_set.keys) == len(from_folder.keys) == 4
    for index in range(4):
        ours, theirs = from_set.read(index), from_folder.read(index)
        np.testing.assert_array_equal(ours.visible, theirs.visible)
        np.testing.assert_allclose(ours.infrared, theirs.infrared, atol=0.6 / 255)


def test_colour_infrared_stays_byte_for_byte(tmp_path):
    put_pair(tmp_path / "raw", "a", colour_infrared=True)
    arguments = ["prepare-data", "--ir_dir", str(tmp_path / "raw/ir"), "--vis_dir", str(tmp_path / "raw/vi")]
    assert main([*arguments, "--out_dir", str(tmp_path / "out"), "--name", "m3fd"]) == 0
    table = prepared.Table(prepared.find(tmp_path / "out"))
    assert table.row(0)["infrared"] == (tmp_path / "raw/ir/a.png").read_bytes()


def test_bad_pairs_are_named_and_the_rest_is_written(tmp_path, capsys):
    for stem in ("good", "bad", "alone"):
        put_pair(tmp_path / "raw", stem)
    (tmp_path / "raw/ir/alone.png").unlink()
    damaged = tmp_path / "raw/vi/bad.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert main(["prepare-data", "--root", str(tmp_path / "raw"), "--out_dir", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "alone.jpg: no infrared image" in said
    assert "bad.jpg: damaged or truncated" in said
    assert prepared.Table(prepared.find(tmp_path / "out")).keys == ["good"]


def test_refusals(tmp_path, prepared_set, capsys):
    root, out = prepared_set
    assert main(["prepare-data", "--root", str(root), "--out_dir", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["prepare-data", "--out_dir", str(out)]) == 2
    assert main(["prepare-data", "--rendered", "1", "--size", "3x9", "--out_dir", str(tmp_path)]) == 2
    assert main(["prepare-data", "--rendered", "1", "--noise", "-1", "--out_dir", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match="not for photo"):
        TrainingData(stage="sr", train=f"photo:{out}", crop=8, batch_size=1)
    broken = tmp_path / "set" / "1.0.0"
    broken.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        (broken / name).write_text("{")
    with pytest.raises(PairError, match="prepare it again"):
        prepared.Table(broken)


def test_rendered_pairs(tmp_path):
    arguments = ["prepare-data", "--rendered", "2", "--size", "32x24", "--out_dir", str(tmp_path)]
    assert main(arguments) == 0
    assert len(list(tmp_path.glob("*/night_0000[01].png"))) == 6
    data = TrainingData(
        stage="fusion", train=str(tmp_path), crop=16, batch_size=2, validation_share=0.0, augment=False
    )
    assert data.examples == 2
    batch = next(data.batches(0))
    assert batch["enhanced"].mean() > 2 * batch["visible"].mean(), "E must be the well-lit picture"


def test_rendered_noise(tmp_path, capsys):
    def render(noise, folder):
        flags = ["--rendered", "1", "--size", "32x24", "--noise", noise, "--out_dir", str(tmp_path / folder)]
        assert main(["prepare-data", *flags]) == 0
        return read_visible(tmp_path / folder / "vi" / "night_00000.png")

    still, noisy = render("0", "still"), render("3", "noisy")
    assert np.abs(np.diff(noisy, axis=0)).mean() > 1.3 * np.abs(np.diff(still, axis=0)).mean()
    np.testing.assert_array_equal(render("3", "still"), still)
    assert "1 were there before" in capsys.readouterr().out
