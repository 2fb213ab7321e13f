"""The classical methods: known figures on a real pair, and what each must do on simple pictures."""

import numpy as np
import pytest
from PIL import Image

from esr_lefuse_jax import baselines, metrics
from esr_lefuse_jax.errors import ConfigError

pytest.importorskip("cv2", reason="OpenCV is not installed (extra `eval`)")


@pytest.fixture(scope="module")
def night(real_data):
    read = lambda kind: np.asarray(Image.open(real_data / "llvip/train" / kind / "010001.jpg").convert("RGB"))  # noqa: E731
    return read("vi"), metrics.to_gray(read("ir"))


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("max", {"en": 6.10, "sd": 32.2, "mi": 6.24, "scd": 1.56, "vif_fusion": 1.23, "qabf": 0.747}),
        ("clahe_max", {"en": 7.28, "sd": 47.0, "mi": 2.43, "scd": 1.34, "vif_fusion": 1.92, "qabf": 0.286}),
    ],
)
def test_known_figures(night, name, figures):
    values = metrics.fusion_metrics(baselines.fuse(name, *night), night[1], night[0], names=figures)
    for metric, figure in figures.items():
        assert values[metric] == pytest.approx(figure, abs=0.06 if figure > 10 else 0.006), metric


@pytest.mark.parametrize("name", baselines.FUSIONS)
@pytest.mark.parametrize("size", [(64, 80), (117, 155), (8, 9)])
def test_equal_gray_sources_come_back(name, size):
    gray = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    fused = baselines.fuse(name, np.repeat(gray[..., None], 3, -1), gray)
    assert fused.shape == (*size, 3)
    if name != "clahe_max":  # which changes the visible image first
        assert np.abs(fused.astype(int) - gray[..., None]).max() <= 1


def test_average_and_maximum_are_what_they_say():
    visible = np.full((16, 16, 3), 40, np.uint8)
    infrared = np.full((16, 16), 100, np.uint8)
    assert np.unique(baselines.fuse("average", visible, infrared)) == [70]
    assert np.unique(baselines.fuse("max", visible, infrared)) == [100]


@pytest.mark.parametrize("name", ["laplacian", "guided_filter"])
def test_detail_of_both_sources_survives(name):
    rng = np.random.default_rng(1)
    texture = rng.integers(0, 60, (64, 128)).astype(np.uint8)
    y, infrared = np.full((64, 128), 90, np.uint8), np.full((64, 128), 90, np.uint8)
    y[:, :64] += texture[:, :64]
    infrared[:, 64:] += texture[:, 64:]
    fused = baselines.fuse(name, np.repeat(y[..., None], 3, -1), infrared)[..., 0]
    for columns, source in ((slice(8, 56), y), (slice(72, 120), infrared)):
        kept = np.corrcoef(fused[8:-8, columns].ravel(), source[8:-8, columns].ravel())[0, 1]
        assert kept > 0.95


def test_colour_is_the_visible_one():
    visible = np.zeros((16, 16, 3), np.uint8)
    visible[...] = (120, 60, 30)
    fused = baselines.fuse("max", visible, np.zeros((16, 16), np.uint8))
    assert np.abs(fused.astype(int) - visible).max() <= 2


def test_enlargements():
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)
    for name, enlarge in baselines.ENLARGEMENTS.items():
        large = enlarge(image, 4)
        assert large.shape == (80, 120, 3), name
        assert large.dtype == np.uint8
        assert metrics.psnr(np.rint(metrics.box_down(large)).astype(np.uint8), image) > 20
    np.testing.assert_array_equal(baselines.bicubic(image), np.rint(metrics.bicubic_up(image)))


def test_unknown_baseline():
    with pytest.raises(ConfigError, match="'magic'"):
        baselines.fuse("magic", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
