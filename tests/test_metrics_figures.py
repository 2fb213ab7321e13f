"""Every metric against published figures, hand values and independent packages."""

import math
import warnings

import numpy as np
import pytest
from PIL import Image

from esr_lefuse_jax import metrics
from esr_lefuse_jax.metrics import naturalness, resample

HAND = np.array([[10, 20, 30], [40, 60, 90], [70, 100, 250]])


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def night(real_data):
    """The original model's output on a night pair, with its sources."""
    folder = real_data / "llvip"
    return (
        read(folder / "original_fused_lr" / "010001.png"),
        read(folder / "train" / "ir" / "010001.jpg"),
        read(folder / "train" / "vi" / "010001.jpg"),
    )


@pytest.fixture(scope="module")
def pair():
    """A photograph and a noisy, darker version of it."""
    data = pytest.importorskip("skimage.data", reason="scikit-image, of the extra `test`, is not installed")
    image = data.coffee()[:200, :260]
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return image, np.clip(0.8 * image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "figure", "tolerance"),
    [
        ("en", 7.783700, 1e-5),
        ("sd", 64.429, 1e-5),
        ("sf", 21.1569, 1e-5),
        ("ag", 5.96449, 1e-5),
        ("ag_forward", 7.6303, 1e-5),
        ("ag_forward_nohalf", 10.791, 1e-5),
        ("mi", 3.415772, 1e-5),
        ("scd", 1.089435, 1e-5),
        ("cc", 0.591565, 1e-5),
        ("vif_fusion", 1.373181, 1e-5),
        ("qabf", 0.247485, 1e-5),
        ("niqe", 3.27, 0.01 / 3.27),
    ],
)
def test_original_model_output(night, name, figure, tolerance):
    assert metrics.fusion_metrics(*night, names=[name])[name] == pytest.approx(figure, rel=tolerance)


@pytest.mark.parametrize(
    ("value", "figure"),
    [
        (metrics.average_gradient(HAND), 54.302385152703515),
        (metrics.average_gradient_forward(HAND), 28.091468969128925),
        (metrics.spatial_frequency(HAND), 99.24716620639605),
        (metrics.spatial_frequency(HAND, over_pixels=True), 81.03497187428812),
        (metrics.standard_deviation(HAND), 68.49348892187751),
        (metrics.entropy(HAND), math.log2(9)),
    ],
)
def test_hand_values(value, figure):
    assert value == pytest.approx(figure, rel=1e-14)


def test_psnr_against_scikit_image_and_sewar(pair):
    skimage_metrics = pytest.importorskip("skimage.metrics")
    sewar = pytest.importorskip("sewar")
    ours = metrics.psnr(*pair)
    assert ours == pytest.approx(skimage_metrics.peak_signal_noise_ratio(*pair, data_range=255), abs=1e-9)
    assert ours == pytest.approx(sewar.psnr(*pair, MAX=255), abs=1e-9)
    single = [image.astype(np.float32) for image in pair]
    assert ours == pytest.approx(
        skimage_metrics.peak_signal_noise_ratio(*single, data_range=np.float32(255)), abs=1e-4
    )


def test_ssim_against_scikit_image_and_sewar(pair):
    skimage_metrics = pytest.importorskip("skimage.metrics")
    sewar = pytest.importorskip("sewar")
    ours = metrics.ssim(*pair)
    theirs = skimage_metrics.structural_similarity(
        *pair,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    from sewar.utils import Filter

    theirs = sewar.ssim(*pair, ws=11, fltr_specs={"fltr": Filter.GAUSSIAN, "sigma": 1.5, "ws": 11})[0]
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_ssim_and_psnr_against_dm_pix(pair):
    dm_pix = pytest.importorskip("dm_pix")
    a, b = (image.astype(np.float32) / 255 for image in pair)
    assert metrics.ssim(*pair) == pytest.approx(float(dm_pix.ssim(a, b)), abs=5e-6)
    assert metrics.psnr(*pair) == pytest.approx(float(dm_pix.psnr(a, b)), abs=1e-4)


def test_entropy_against_scikit_image(pair):
    measure = pytest.importorskip("skimage.measure")
    gray = metrics.to_gray(pair[0])
    assert metrics.entropy(pair[0]) == pytest.approx(measure.shannon_entropy(gray), abs=1e-12)


def test_vifp_against_sewar(pair):
    sewar = pytest.importorskip("sewar")
    gray = [metrics.to_gray(image) for image in pair]
    assert metrics.vifp(*pair) == pytest.approx(sewar.vifp(*gray), abs=1e-9)
    assert metrics.vifp_rgb(*pair) == pytest.approx(sewar.vifp(*pair), abs=1e-9)


def test_vifp_against_torchmetrics(pair):
    # torchmetrics 1.9.0 in float64; only these two figures of it are needed.
    assert metrics.vifp_rgb(*pair) == pytest.approx(0.281159992480704, abs=1e-9)
    assert metrics.vifp(*pair) == pytest.approx(0.37651248822972344, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("coffee", 4.058462),
        ("chelsea", 2.572084),
        ("brick", 9.480142),
        ("grass", 6.492925),
        ("gravel", 4.333702),
        ("camera", 3.096202),
    ],
)
def test_niqe_of_known_photographs(name, figure):
    data = pytest.importorskip("skimage.data", reason="scikit-image, of the extra `test`, is not installed")
    assert metrics.niqe(getattr(data, name)()) == pytest.approx(figure, abs=1e-3)


def test_niqe_fit_tells_its_own_photographs_from_noise():
    data = pytest.importorskip("skimage.data", reason="scikit-image, of the extra `test`, is not installed")
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.brick(), data.grass()]
    photographs += [image[32:, 32:] for image in photographs]
    model = naturalness.fit(photographs)
    noisy = np.clip(
        data.coffee() + np.random.default_rng(0).normal(0, 40, data.coffee().shape), 0, 255
    ).astype(np.uint8)
    assert metrics.niqe(data.coffee(), model) < metrics.niqe(noisy, model)


def test_niqe_model_survives_a_round_trip(tmp_path):
    default = naturalness.default_model()
    default.save(str(tmp_path / "model.npz"))
    again = naturalness.NiqeModel.load(str(tmp_path / "model.npz"))
    np.testing.assert_array_equal(again.mean, default.mean)
    np.testing.assert_array_equal(again.covariance, default.covariance)


def test_bicubic_against_torch(pair):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
    image = pair[0][:21, :17]
    tensor = torch.from_numpy(image.astype(np.float64).transpose(2, 0, 1)[None].copy())
    theirs = torch.nn.functional.interpolate(tensor, scale_factor=4, mode="bicubic", align_corners=False)
    theirs = theirs[0].numpy().transpose(1, 2, 0).clip(0, 255)
    np.testing.assert_allclose(metrics.bicubic_up(image), theirs, atol=1e-9)


def test_bicubic_against_opencv_within_one_level(pair):
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed (extra `eval`)")
    image = pair[0][:31, :40]
    theirs = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    assert np.abs(np.rint(metrics.bicubic_up(image)) - theirs).max() <= 1


def test_bicubic_keeps_flat_images_and_the_mean_of_a_ramp():
    np.testing.assert_allclose(metrics.bicubic_up(np.full((3, 2), 7)), np.full((12, 8), 7), rtol=1e-14)
    ramp = np.tile(np.arange(40.0) * 4, (12, 1))
    up = metrics.bicubic_up(ramp)
    assert up.shape == (48, 160)
    # Boxes of a ramp's enlargement average back to the ramp.
    np.testing.assert_allclose(metrics.box_down(up)[:, 4:-4], ramp[:, 4:-4], atol=1e-9)


def test_half_size_against_a_direct_sum():
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 255, (8, 12))
    taps = resample.cubic((np.arange(8) - 3.5) / 2, -0.5)
    taps /= taps.sum()
    mirror = lambda i, n: -i - 1 if i < 0 else 2 * n - 1 - i if i >= n else i  # noqa: E731
    expected = np.array(
        [
            [
                sum(
                    taps[a] * taps[b] * image[mirror(2 * i - 3 + a, 8), mirror(2 * j - 3 + b, 12)]
                    for a in range(8)
                    for b in range(8)
                )
                for j in range(6)
            ]
            for i in range(4)
        ]
    )
    np.testing.assert_allclose(resample.half_size(image), expected, rtol=1e-12)


def test_lr_consistency_is_the_psnr_of_the_boxes(pair):
    lr = pair[0][:24, :32]
    sr = np.clip(np.rint(metrics.bicubic_up(lr)), 0, 255).astype(np.uint8)
    boxes = sr.reshape(24, 4, 32, 4, 3).astype(float).mean(axis=(1, 3))
    expected = 10 * math.log10(255**2 / np.mean((boxes - lr) ** 2))
    assert metrics.lr_consistency(sr, lr) == pytest.approx(expected, abs=1e-9)


def test_oracles_raise_no_warning_with_us(pair):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.fusion_metrics(pair[1], pair[0], pair[0][::-1])
