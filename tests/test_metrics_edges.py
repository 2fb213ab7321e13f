"""What metrics do with flat, identical, tiny, huge and unusable images, and that strips change nothing."""

import math
import tracemalloc

import numpy as np
import pytest

from esr_lefuse_jax import metrics
from esr_lefuse_jax.errors import ConfigError, MetricError
from esr_lefuse_jax.metrics import filters, registry
from esr_lefuse_jax.metrics.registry import METRICS

RNG = np.random.default_rng(7)
TEXTURE = RNG.integers(0, 256, (210, 200, 3), dtype=np.uint8)
OTHER = RNG.integers(0, 256, (210, 200, 3), dtype=np.uint8)
FLAT = np.full((210, 200, 3), 77, np.uint8)


@pytest.mark.parametrize("level", [0, 1, 77, 200, 255])
def test_flat_image(level):
    values = metrics.fusion_metrics(np.full((210, 200, 3), level, np.uint8), TEXTURE, OTHER)
    assert [values[name] for name in ("en", "ag", "sd", "sf", "mi")] == [0, 0, 0, 0, 0]
    assert math.copysign(1, values["en"]) == 1
    assert values["niqe"] is None
    assert values["cc"] is None
    assert values["qabf"] < 0.03  # zero padding gives even a flat image edges at its borders
    assert values["vif_fusion"] == 0


@pytest.mark.parametrize("level", [0, 17, 200, 255])
def test_flat_source(level):
    flat = np.full((210, 200), level, np.uint8)
    values = metrics.fusion_metrics(TEXTURE, flat, OTHER)
    assert values["vif_fusion"] is None
    assert values["scd"] is None
    assert values["mi"] > 0


def test_two_black_sources_have_no_edges():
    black = np.zeros((50, 50), np.uint8)
    with pytest.raises(MetricError, match="Qabf is not defined"):
        metrics.qabf(TEXTURE[:50, :50], black, black)


def test_identical_images():
    assert metrics.psnr(TEXTURE, TEXTURE) == math.inf
    assert metrics.ssim(TEXTURE, TEXTURE) == pytest.approx(1, abs=1e-12)
    assert metrics.vifp(TEXTURE, TEXTURE) == pytest.approx(1, abs=1e-9)
    assert metrics.qabf(TEXTURE, TEXTURE, TEXTURE) == pytest.approx(0.9994 * 0.9879 / 1.0122, rel=1e-3)
    value, reason = metrics.measure(METRICS["psnr"], TEXTURE, TEXTURE)
    assert value is None
    assert "identical" in reason
    assert metrics.fusion_metrics(TEXTURE, TEXTURE, TEXTURE, names=["scd"])["scd"] is None


def test_one_pixel():
    one = np.array([[5]], np.uint8)
    values = metrics.fusion_metrics(one, one, one)
    assert {name for name, value in values.items() if value is not None} == {"en", "sd", "mi"}


@pytest.mark.parametrize(
    ("name", "size"), [("niqe", (191, 96)), ("vif", (40, 300)), ("ssim", (10, 300)), ("sf", (1, 9))]
)
def test_too_small_says_the_size(name, size):
    metric = METRICS[name]
    images = [TEXTURE[: size[0], : size[1]]] * (1 if metric.needs == "image" else 2)
    images = [np.resize(image, (*size, 3)) for image in images]
    with pytest.raises(MetricError, match=f"not defined for {size[1]}x{size[0]}"):
        metric.compute(*images)


@pytest.mark.parametrize(("name", "side"), [("vif", 41), ("ssim", 11), ("sf", 2), ("ag", 2)])
def test_smallest_size_is_defined(name, side):
    metric = METRICS[name]
    images = [TEXTURE[:side, :side], OTHER[:side, :side]][: 1 if metric.needs == "image" else 2]
    assert math.isfinite(metric.compute(*images))


def test_smallest_niqe_is_finite_and_worse_for_noise():
    value = metrics.niqe(TEXTURE[:192, :96])
    assert math.isfinite(value)
    assert value > 5


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), np.inf), "infinite"),
        (np.full((4, 4), 256.0), "leave 0..255"),
        (np.full((4, 4), -1.0), "leave 0..255"),
        (np.full((4, 4), 0.5), "multiply by 255"),
        (np.zeros((4, 4, 4)), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.zeros(4), "shape"),
        (np.zeros((4, 4), complex), "dtype"),
    ],
)
def test_unusable_input(image, message):
    with pytest.raises(MetricError, match=message):
        metrics.entropy(image)


def test_sizes_must_agree():
    with pytest.raises(MetricError, match="200x210, 200x100"):
        metrics.mutual_information(TEXTURE, TEXTURE[:100], TEXTURE)
    with pytest.raises(MetricError, match="channels"):
        metrics.psnr(TEXTURE, TEXTURE[..., 0])
    with pytest.raises(MetricError, match="whole factor"):
        metrics.lr_consistency(TEXTURE, TEXTURE[:100, :99])
    with pytest.raises(MetricError, match="multiple of 4"):
        metrics.box_down(TEXTURE)


def test_gray_ties_go_up_and_dtypes_agree():
    # .299 * 250 + .587 * 250 + .114 * 1 = 221.614; 500 thousandths exactly: 0, 0, 250 -> 28.5 -> 29.
    tie = np.array([[[0, 0, 250], [250, 250, 1]]], np.uint8)
    assert metrics.to_gray(tie).tolist() == [[29, 222]]
    for dtype in (np.float32, np.float64, np.int32):
        np.testing.assert_array_equal(metrics.to_gray(TEXTURE.astype(dtype)), metrics.to_gray(TEXTURE))
    assert metrics.to_gray(np.array([[0.5, 2.49, 2.5]]) + 4).tolist() == [[5, 6, 7]]


def test_channel_axis_does_not_matter():
    gray = TEXTURE[..., 0]
    assert metrics.fusion_metrics(gray, OTHER, OTHER) == metrics.fusion_metrics(gray[..., None], OTHER, OTHER)


def test_unknown_metric():
    with pytest.raises(ConfigError, match="'sharpness'"):
        metrics.fusion_metrics(TEXTURE, TEXTURE, TEXTURE, names=["sharpness"])
    with pytest.raises(ConfigError, match="'psnr'"):
        metrics.fusion_metrics(TEXTURE, TEXTURE, TEXTURE, names=["psnr"])


@pytest.mark.parametrize("rows", [1, 5, 10000])
def test_strips_change_nothing(monkeypatch, rows):
    names = [name for name, metric in METRICS.items() if metric.needs in ("image", "sources")]
    smooth = np.cumsum(TEXTURE, axis=1, dtype=np.uint8)
    expected = metrics.fusion_metrics(smooth, TEXTURE, OTHER, names=names)
    expected_ssim, expected_up = metrics.ssim(TEXTURE, OTHER), metrics.bicubic_up(TEXTURE[:30])
    strips = lambda count: [(i, min(i + rows, count)) for i in range(0, count, rows)]  # noqa: E731
    for module in ("edges", "fidelity", "filters", "gray", "information", "resample", "statistics", "vif"):
        monkeypatch.setattr(f"esr_lefuse_jax.metrics.{module}.row_strips", strips)
    values = metrics.fusion_metrics(smooth, TEXTURE, OTHER, names=names)
    assert values == pytest.approx(expected, rel=1e-11)
    assert metrics.ssim(TEXTURE, OTHER) == pytest.approx(expected_ssim, rel=1e-11)
    np.testing.assert_allclose(metrics.bicubic_up(TEXTURE[:30]), expected_up, rtol=1e-12)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (8, 2), (17, 1), (17, 3)])
def test_correlate_valid_against_a_direct_sum(size, stride):
    image, taps = RNG.normal(size=(40, 53)), RNG.normal(size=size)
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
    expected = np.einsum("ijkl,k,l->ij", windows, taps, taps)[::stride, ::stride]
    np.testing.assert_allclose(filters.correlate_valid(image, taps, stride), expected, atol=1e-12)


def test_memory_stays_small_on_a_tall_image():
    gray = np.resize(TEXTURE[..., 0], (3000, 600))
    tracemalloc.start()
    registry.fusion_metrics(gray, gray[::-1], gray.T.reshape(gray.shape))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One float64 copy of the image is 8 bytes a pixel; whole-image filters would need a dozen of them.
    assert peak < 20 * gray.size
