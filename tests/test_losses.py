"""Losses against independent statements, the golden perceptual terms, and on flat images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from esr_lefuse_jax.config import default_config
from esr_lefuse_jax.losses import (
    fusion_objective,
    perceptual,
    super_resolution_objective,
    terms,
    weighted_sum,
)
from esr_lefuse_jax.models.vgg import VGG16Features
from tests.formula import image

RNG = np.random.default_rng(3)


def images(*shape):
    return RNG.uniform(size=shape).astype(np.float32)


def toy_features(x):
    """Four maps at strides 1, 2, 4, 8, to stand for VGG16."""
    maps = []
    for level in range(4):
        side = 2**level
        n, h, w, c = x.shape
        maps.append(x.reshape(n, h // side, side, w // side, side, c).mean(axis=(2, 4)) ** 2)
    return tuple(maps)


def fusion_weights(**changes):
    return {**dict(default_config("fusion").loss.fusion.items()), **changes}


def fusion_batch(value=None, shape=(2, 24, 32, 1)):
    names = ("target", "enhanced", "infrared", "luminance")
    return {n: images(*shape) if value is None else jnp.full(shape, value) for n in names}


def test_ssim_equals_scikit_image():
    a, b = images(2, 40, 52, 3), images(2, 40, 52, 3)
    b = 0.7 * a + 0.3 * b
    ours = terms.ssim(jnp.asarray(a), jnp.asarray(b))
    for i in range(2):
        options = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        wanted = structural_similarity(a[i].astype(float), b[i].astype(float), data_range=1.0, **options)
        assert ours[i] == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 40, 1), (1, 11, 11, 3)])
def test_ssim_of_small_images_is_one_with_themselves(shape):
    a = jnp.asarray(images(*shape))
    np.testing.assert_allclose(terms.ssim(a, a), 1, atol=1e-6)


@pytest.mark.parametrize("term", [terms.l1, terms.color, terms.psnr, terms.ssim])
def test_masked_padding_never_counts(term):
    a, b = images(2, 20, 24, 3), images(2, 20, 24, 3)
    pads = ((0, 0), (0, 7), (0, 5), (0, 0))
    mask = np.pad(np.ones((2, 20, 24, 1), np.float32), pads)
    padded_a = np.pad(a, pads, constant_values=9.0)
    padded_b = np.pad(b, pads, constant_values=np.float32(-4.0))
    np.testing.assert_allclose(term(padded_a, padded_b, mask), term(a, b), rtol=2e-6)


def test_padding_of_nan_never_counts():
    a, mask = images(2, 8, 8, 1), np.ones((2, 8, 8, 1), np.float32)
    a[:, 4:], mask[:, 4:] = np.nan, 0
    assert np.isfinite(terms.l1(a, np.zeros_like(a), mask)).all()
    total, count = terms.totals(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 1.0]))
    assert (float(total), float(count)) == (4.0, 2.0)


def test_sobel_of_ramps():
    ramp = jnp.broadcast_to(jnp.arange(12.0)[None, None, :, None] * 0.05, (1, 8, 12, 1))
    np.testing.assert_allclose(terms.sobel_magnitude(ramp)[0, 1:-1, 1:-1, 0], 0.05, rtol=1e-5)
    np.testing.assert_allclose(terms.sobel_magnitude(ramp.swapaxes(1, 2))[0, 1:-1, 1:-1, 0], 0.05, rtol=1e-5)


def test_color_is_the_mean_squared_error_of_the_channels():
    a, b = images(2, 6, 8, 3), images(2, 6, 8, 3)
    np.testing.assert_allclose(terms.color(a, b), ((a - b) ** 2).mean(axis=(1, 2, 3)), rtol=1e-6)


def test_dark_and_smooth_marks_noise_in_the_dark_only():
    dark = np.full((1, 32, 96, 1), 0.05, np.float32) + 0.005 * images(1, 32, 96, 1)
    y, infrared = dark.copy(), np.full_like(dark, 0.3)
    y[:, :, 32:64] += 0.5  # a lit part
    infrared[:, ::4, 64:] += 0.4  # a dark part where the infrared has texture
    weight = np.asarray(terms.dark_and_smooth(y, infrared, 0.25, 0.02))
    assert weight[0, 8:-8, 8:20].min() > 0.8
    assert weight[0, 8:-8, 44:52].max() < 0.01
    assert weight[0, 8:-8, 80:90].max() < 0.01


def test_smooth_term_prefers_the_quiet_image():
    batch = {k: jnp.full((1, 32, 32, 1), 0.05) for k in ("target", "enhanced", "infrared", "luminance")}
    weights = fusion_weights(perceptual=0)
    noisy = batch["target"] + 0.02 * (jnp.indices((32, 32)).sum(0) % 2)[None, :, :, None]
    quiet = fusion_objective(batch["target"], batch, weights)["smooth"]
    assert float(quiet[0]) == 0
    assert float(fusion_objective(noisy, batch, weights)["smooth"][0]) > 0.01


def test_fusion_terms_are_zero_where_they_should_be():
    batch = fusion_batch()
    batch["infrared"] = batch["enhanced"] = batch["target"]
    values = fusion_objective(batch["target"], batch, fusion_weights(), toy_features)
    for name in ("l1", "gradient", "ssim", "perceptual"):
        np.testing.assert_allclose(values[name], 0, atol=2e-6, err_msg=name)


def test_infrared_share_moves_the_ssim_term():
    batch = fusion_batch()
    batch["enhanced"] = np.ones_like(batch["infrared"]) * 0.5
    all_infrared = fusion_objective(
        batch["infrared"], batch, fusion_weights(infrared_share=1.0, perceptual=0)
    )
    np.testing.assert_allclose(all_infrared["ssim"], 0, atol=1e-6)
    none = fusion_objective(batch["infrared"], batch, fusion_weights(infrared_share=0.0, perceptual=0))
    assert float(none["ssim"].min()) > 0.3


def test_a_term_without_weight_is_neither_computed_nor_counted():
    batch = fusion_batch()
    weights = fusion_weights(gradient=0, ssim=0, perceptual=0, smooth=0)
    values = fusion_objective(batch["enhanced"], batch, weights)
    assert list(values) == ["l1"]
    np.testing.assert_allclose(weighted_sum(values, {"l1": 2.0}), 2 * values["l1"])
    assert float(jnp.sum(weighted_sum({"a": jnp.ones(3)}, {}))) == 0


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_gradients_are_finite_on_flat_images(value):
    batch = fusion_batch(value)

    def fusion_loss(fused):
        weights = fusion_weights()
        return weighted_sum(fusion_objective(fused, batch, weights, toy_features), weights).sum()

    def sr_loss(output):
        weights = {"l1": 1.0, "perceptual": 0.3, "color": 0.15}
        reference = jnp.full_like(output, value)
        return weighted_sum(
            super_resolution_objective(output, reference, weights, toy_features), weights
        ).sum()

    for gradient in (
        jax.grad(fusion_loss)(batch["target"]),
        jax.grad(sr_loss)(jnp.full((2, 16, 16, 3), value)),
    ):
        assert np.isfinite(gradient).all()


def test_gradients_agree_with_differences():
    batch = {k: v.astype(np.float64) for k, v in fusion_batch(shape=(1, 16, 16, 1)).items()}
    weights = fusion_weights()
    with jax.enable_x64(True):
        x = jnp.asarray(RNG.uniform(size=(1, 16, 16, 1)))
        direction = jnp.asarray(RNG.normal(size=x.shape))

        def loss(fused):
            return weighted_sum(fusion_objective(fused, batch, weights, toy_features), weights).sum()

        slope = jnp.vdot(jax.grad(loss)(x), direction)
        step = 1e-7
        wanted = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float(wanted), rel=1e-4)


def test_references_carry_no_gradient():
    reference = jnp.asarray(images(1, 16, 16, 3))
    output = jnp.asarray(images(1, 16, 16, 3))

    def perceptual_of(ref):
        values = super_resolution_objective(
            output, ref, {"perceptual": 1.0, "color": 0, "l1": 0}, toy_features
        )
        return values["perceptual"].sum()

    assert float(jnp.abs(jax.grad(perceptual_of)(reference)).max()) == 0


def test_perceptual_distance_ignores_masked_padding():
    a, b = images(1, 16, 24, 3), images(1, 16, 24, 3)
    pads = ((0, 0), (0, 8), (0, 8), (0, 0))
    mask = np.pad(np.ones((1, 16, 24, 1), np.float32), pads)
    (fa,), (fb,) = (perceptual.features_of([x], toy_features) for x in (a, b))
    (pa,), (pb,) = (perceptual.features_of([np.pad(x, pads, "edge")], toy_features) for x in (a, b))
    np.testing.assert_allclose(
        perceptual.distance_terms(pa, pb, mask), perceptual.distance_terms(fa, fb), rtol=1e-5
    )


def test_perceptual_loss_is_the_original_one(golden):
    """With the real VGG16 weights, where they are at hand."""
    from tests.conftest import REAL_DATA

    path = REAL_DATA.parent / "weights" / "vgg16_relu4_3.npz"
    if not path.is_file():
        pytest.skip("no VGG16 weights beside the repository")
    with np.load(path) as arrays:
        names = {key.split(".")[0].split("/")[0] for key in arrays.files}
        params = {
            name: {leaf: arrays[next(k for k in arrays.files if k.startswith(name) and k.endswith(leaf))]
                   for leaf in ("kernel", "bias")}
            for name in names
        }  # fmt: skip
    network = VGG16Features()
    pictures = [image(name, (1, 3, 48, 64)).transpose(0, 2, 3, 1) for name in ("pa", "pb")]
    a, b = perceptual.features_of(pictures, lambda x: network.apply({"params": params}, x))
    found = perceptual.distance_terms(a, b)[0]
    np.testing.assert_allclose(found, golden["perceptual/terms"], rtol=2e-5)
    np.testing.assert_allclose(perceptual.distance(a, b)[0], golden["perceptual/loss"], rtol=2e-5)
