"""What `recipes/` does to weights: the wired maximum, its contrast, ablations, and which entries a leg leaves alone.

And which windows the super-resolution is shown.
"""

import hashlib
import pathlib
import sys

import jax
import networks
import numpy as np
import pytest
from PIL import Image

from esr_lefuse_jax import weights
from esr_lefuse_jax.config import default_config
from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.metrics import box_down
from esr_lefuse_jax.pseudo_hr import Options, make_pseudo_hr

pytest.importorskip("cv2", reason="the recipes need the extra `eval`")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "recipes"))

import fusion_open_data
import fusion_open_merge as merge
import sr_open_data
import train_open

SHAPE = (24, 40)


def by_hand(entries):
    """The formula weights with entries set."""
    variables = networks.variables("fusion")
    params = {name: np.array(leaf) for name, leaf in merge._flat(variables["params"]).items()}
    for name, index, value in entries:
        params[name][index] = value
    return merge._tree(params, merge._flat(variables["batch_stats"]))


@pytest.fixture(scope="module")
def wired():
    return by_hand(merge.entries())


def fuse(variables, infrared):
    y = networks.image("y", (1, 1, *SHAPE))
    rows, columns = networks.sizes(1, *SHAPE)
    prepared = networks.fast_fusion.prepare(variables)
    return np.asarray(networks.fuse_whole(prepared, y, infrared, rows, columns))


def test_the_output_is_the_maximum_of_both(wired):
    """Where the infrared wins the result is its curve; elsewhere it is larger."""
    infrared = np.linspace(0, 1, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(1, *SHAPE, 1)
    curve = 1 / (1 + np.exp(-merge.FLOOR - merge.GAIN * infrared))
    difference = fuse(wired, infrared) - curve
    assert difference.min() > -1e-5
    assert (np.abs(difference) < 1e-5).mean() > 0.05
    brighter = merge.with_contrast(wired, 1.0, -50.0, 0.5)  # the enhanced picture never wins
    curve = 1 / (1 + np.exp(-merge.FLOOR - 0.5 - merge.GAIN * infrared))
    np.testing.assert_allclose(fuse(brighter, infrared), curve, atol=1e-5)


@pytest.mark.parametrize("path", sorted(merge.PATHS))
def test_a_path_that_is_off_stays_off_whatever_the_contrast(wired, path):
    off = merge.with_contrast(merge.without(wired, path), 1.3, 0.1, 0.0)
    fixed = merge.fixed_in(off)
    mask = merge.trained(off["params"], fixed)
    for gate, _ in merge.PATHS[path]:
        kernel = mask["blk3"]["recalibration"][gate]["kernel"]
        assert not kernel.any()
    again = merge.without(off, path)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(off), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_wired_weights_have_fixed_entries(wired):
    ordinary = networks.variables("fusion")
    assert merge.fixed_in(ordinary) == []
    for change in (
        lambda: merge.with_contrast(ordinary, 1.0, 0.0, 0.0),
        lambda: merge.without(ordinary, "local"),
    ):
        with pytest.raises(ConfigError, match="wire"):
            change()
    mask = merge.trained(wired["params"], merge.fixed_in(wired))
    assert sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(mask)) == 6349


def test_wiring_puts_the_least_squares_into_the_channel():
    """The fit, through the module's residuals and gates, is what the enhanced channel gives."""
    rng = np.random.default_rng(0)
    picture = fusion_open_data.Picture(*((rng.random((160, 200)) * 255).astype(np.uint8) for _ in range(3)))
    wired = merge.wire(networks.variables("fusion"), [picture])
    example = fusion_open_data.window(picture, merge.SIDE, np.random.default_rng(0))
    given, hidden = merge._features(wired, example)
    inputs = np.concatenate([given, hidden, np.ones((len(given), 1))], axis=-1)
    gram = inputs.T @ inputs
    wanted = fusion_open_data.logits(example["enhanced"]).reshape(-1)
    fitted = inputs @ np.linalg.solve(gram + 1e-4 * np.diag(np.diag(gram)), inputs.T @ wanted)
    infrared = merge.FLOOR + merge.GAIN * example["infrared"].reshape(-1)
    expected = 1 / (1 + np.exp(-np.maximum(fitted, infrared)))
    fused = networks.fusion_module(wired, example["visible"][None, ..., :1], example["infrared"][None])
    np.testing.assert_allclose(np.asarray(fused).reshape(-1), expected, atol=1e-3)
    assert (fitted > infrared).mean() > 0.05


def test_a_folder_without_frames_is_named(tmp_path):
    with pytest.raises(ConfigError, match="vi/"):
        fusion_open_data.pictures(tmp_path)


@pytest.fixture
def frames(tmp_path):
    """A folder like M3SVD's: two clips, of which one is held out."""
    (tmp_path / "vi").mkdir()
    rng = np.random.default_rng(1)
    for name in ("0101_0000", f"{sr_open_data.HELD_OUT}_0000"):
        picture = np.kron(rng.integers(0, 255, (45, 60, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(picture).save(tmp_path / "vi" / f"{name}.jpg", quality=96)
    return tmp_path


class Fused:
    """Fused pictures of a clip."""

    def __init__(self, name):
        self.names = [name]

    def image(self, index):
        return np.random.default_rng(index).random((64, 64, 3), np.float32)


def repeated(picture):
    """A teacher that repeats pixels."""
    return np.kron(picture, np.ones((4, 4, 1), np.float32))


def sr_config(*folders):
    config = default_config("sr")
    config.data.crop, config.batch_size = 16, 6
    config.data.train = ",".join(map(str, folders))
    return config


def test_windows_depend_on_seed_and_step_and_belong_together(frames, tmp_path, monkeypatch):
    pytest.importorskip("skimage", reason="the recipe reads scikit-image's pictures")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.new("RGB", (300, 200), (200, 100, 50)).save(photographs / "one.png")
    found = hashlib.sha256((photographs / "one.png").read_bytes()).hexdigest()[:16]
    monkeypatch.setattr(sr_open_data, "PHOTOGRAPHS", {"one.png": found})
    monkeypatch.setattr(sr_open_data, "BOX", 1.0)
    made = make_pseudo_hr(Fused("0101_0000"), repeated, tmp_path, Options(2, 32), "x")
    data = sr_open_data.SuperResolutionData(sr_config(frames, photographs, made.folder))
    assert data.kinds == ["frames", "free", "photographs", "taught"]
    assert len(data.pictures["frames"]) == 1
    batches = data.batches(4)
    first, second = next(batches), next(batches)
    again = next(sr_open_data.SuperResolutionData(data.config).batches(5))
    for name, side in (("lr", 16), ("hr", 64)):
        assert first[name].shape == (6, side, side, 3)
        assert first[name].dtype == np.float32
        np.testing.assert_array_equal(second[name], again[name])
    monkeypatch.setattr(sr_open_data, "DIM", 1.0)
    data.kinds, data.shares = ["taught"], np.ones(1)
    taught = next(data.batches(0))
    for batch in (first, taught):
        for lr, hr in zip(batch["lr"], batch["hr"], strict=True):
            np.testing.assert_allclose(box_down(hr * 255, 4) / 255, lr, atol=0.51 / 255)
    assert len({hr.max() for hr in taught["hr"]}) == 6, "dimmed differently"


def test_other_pictures_than_those_of_the_recipe_are_named(frames, tmp_path):
    pytest.importorskip("skimage", reason="the recipe reads scikit-image's pictures")
    with pytest.raises(ConfigError, match="vi/"):
        sr_open_data.SuperResolutionData(sr_config(tmp_path / "nothing"))
    for folders in ((frames, "", frames), (frames,) * 4):
        with pytest.raises(ConfigError, match="give M3SVD"):
            sr_open_data.SuperResolutionData(sr_config(*folders))
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    first = next(iter(sr_open_data.PHOTOGRAPHS))
    with pytest.raises(ConfigError, match=f"{first}: is missing"):
        sr_open_data.SuperResolutionData(sr_config(frames, photographs))
    Image.new("RGB", (30, 20)).save(photographs / first)
    with pytest.raises(ConfigError, match=f"{first}: is not the file"):
        sr_open_data.SuperResolutionData(sr_config(frames, photographs))
    made = make_pseudo_hr(Fused(f"{sr_open_data.HELD_OUT}_0000"), repeated, tmp_path, Options(1, 32), "x")
    with pytest.raises(ConfigError, match="held out"):
        sr_open_data.taught(made.folder, 4)


def test_real_pairs_without_the_measured_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fusion_open_data, "RENDERED", 1)
    rng = np.random.default_rng(2)

    def write(folder, *names):
        for kind in ("ir", "vi"):
            (tmp_path / folder / kind).mkdir(parents=True, exist_ok=True)
            for name in names:
                picture = np.kron(rng.integers(0, 255, (12, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
                picture = picture[..., 0] if kind == "ir" else picture
                Image.fromarray(picture).save(tmp_path / folder / kind / f"{name}.jpg", quality=96)
        return tmp_path / folder

    m3svd = write("m3svd", "0101_0000", f"{fusion_open_data.HELD_OUT}_0000")
    real = write("real", fusion_open_data.MEASURED, "010002")
    config = default_config("fusion")
    config.data.crop, config.batch_size = 32, 2
    config.data.train = f"{m3svd},{real}"
    data = fusion_open_data.FusionData(config)
    assert [len(kind) for kind in data.kinds[-2:]] == [1, 1]
    assert data.shares[-1] == pytest.approx(0.6)
    assert data.shares.sum() == pytest.approx(1)
    assert next(data.batches(0))["target"].shape == (2, 32, 32, 1)
    write("real", "010003")
    more = fusion_open_data.FusionData(config)
    assert len(more.kinds[-1]) == 2
    assert more.fingerprint != data.fingerprint
    config.data.train = str(m3svd)
    assert fusion_open_data.FusionData(config).shares.sum() == pytest.approx(1)
    config.data.train = f"{m3svd},{write('empty')}"
    with pytest.raises(ConfigError, match="empty: has no pairs"):
        fusion_open_data.FusionData(config)


def test_terms_go_on_to_what_is_made_from_weights(wired, tmp_path, monkeypatch):
    source, changed = tmp_path / "source.safetensors", tmp_path / "changed.safetensors"
    weights.save_safetensors(source, "fusion", wired, {"terms": "for nobody"})
    for arguments in (["contrast", source, changed, "1.1", "0", "0"], ["without", "local", source, changed]):
        assert train_open.main(list(map(str, arguments))) == 0
        assert weights.load_weights(changed, "fusion").metadata["terms"] == "for nobody"
    (tmp_path / "pretrained").mkdir()
    monkeypatch.setattr(train_open.weights_shipped, "__file__", str(tmp_path / "weights_shipped.py"))
    assert train_open.main(["ship", "fusion", str(source), "research"]) == 0
    shipped = weights.load_weights(tmp_path / "pretrained" / "fusion_research.safetensors", "fusion")
    assert "LLVIP" in shipped.metadata["terms"]
    assert shipped.dtypes["float16"] > 0
    assert train_open.main(["ship", "sr", str(source), "research"]) == 1
