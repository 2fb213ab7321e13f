"""Operations against plain statements of what they compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esr_lefuse_jax.color import rgb_to_ycrcb, ycrcb_to_rgb
from esr_lefuse_jax.inference import ensemble
from esr_lefuse_jax.ops.depthwise import depthwise_conv
from esr_lefuse_jax.ops.narrow import narrow_conv
from esr_lefuse_jax.ops.resize import bicubic, pixel_shuffle
from esr_lefuse_jax.ops.strided import conv_stride2, conv_transpose2
from esr_lefuse_jax.ops.sums import pixel_sum
from esr_lefuse_jax.ops.window_sums import border_sums, window_sums


def _grouped(x, kernel):
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


@pytest.mark.parametrize("size", [3, 7])
def test_depthwise_convolution_and_its_gradients(size):
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.normal(size=(2, 6, 9, 5)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 5)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    def loss(function):
        return lambda x, kernel: jnp.sum(function(x, kernel) * weight)

    np.testing.assert_allclose(depthwise_conv(x, kernel), _grouped(x, kernel), atol=1e-4)
    ours = jax.jit(jax.grad(loss(depthwise_conv), argnums=(0, 1)))(x, kernel)
    theirs = jax.jit(jax.grad(loss(_grouped), argnums=(0, 1)))(x, kernel)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (2, 2), (4, 7)], ids=str)
def test_window_sums_are_those_of_the_convolution(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    sums = window_sums(border_sums(x))
    for dy in range(3):
        for dx in range(3):
            tap = np.zeros((3, 3, 1, 3), np.float32)
            tap[dy, dx] = 1
            expected = jnp.sum(_grouped(x, jnp.asarray(tap)), axis=(1, 2))
            np.testing.assert_allclose(sums[:, dy, dx], expected, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 5)], ids=str)
def test_border_sums_have_the_gradient_of_their_definition(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)

    def plain(x):
        rows = jnp.stack([jnp.sum(x, axis=1), x[:, 0], x[:, -1]], axis=1)
        return jnp.stack([jnp.sum(rows, axis=2), rows[:, :, 0], rows[:, :, -1]], axis=2)

    np.testing.assert_allclose(border_sums(x), plain(x), atol=1e-5)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 3)), jnp.float32)
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(f(x) * weight))(x) for f in (border_sums, plain))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "features", "taps", "side"),
    [(2, 5, (3, 3), 1), (3, 3, (3, 3), 1), (6, 1, (3, 3), 1), (7, 3, (5, 3), 2), (4, 9, (3, 1), 0)],
)
def test_narrow_convolution_is_the_convolution(channels, features, taps, side):
    rng = np.random.default_rng(channels)
    x = jnp.asarray(rng.normal(size=(2, 7, 9, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*taps, channels, features)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((0, 0), (side, side)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(narrow_conv(x, kernel, side), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 5, 7, 4), (1, 64, 1000, 2)], ids=str)
def test_pixel_sum_keeps_its_digits(shape):
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = x.astype(np.float64).sum((1, 2))
    np.testing.assert_allclose(jax.jit(pixel_sum)(x), expected, rtol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_that_of_pytorch(scale):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test EXTRAS=torch")
    x = np.random.default_rng(scale).random((1, 5, 7, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2)), scale_factor=scale, mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(
        bicubic(jnp.asarray(x), scale), expected.numpy().transpose(0, 2, 3, 1), atol=2e-6
    )


def test_bicubic_keeps_a_flat_image_and_needs_one_pixel_only():
    np.testing.assert_allclose(bicubic(jnp.full((1, 1, 1, 2), 0.3), 4), np.full((1, 4, 4, 2), 0.3), atol=1e-6)


def test_pixel_shuffle_order():
    x = jnp.arange(2 * 4).reshape(1, 1, 1, 8)  # two channels, scale 2
    out = pixel_shuffle(x, 2)
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(out[0, :, :, 1], [[4, 5], [6, 7]])


def test_colour_there_and_back():
    rgb = jnp.asarray(np.random.default_rng(0).random((4, 5, 3)), jnp.float32)
    back = ycrcb_to_rgb(*rgb_to_ycrcb(rgb))
    np.testing.assert_allclose(back, rgb, atol=3e-3)
    y, cr, cb = rgb_to_ycrcb(jnp.array([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose([y[0, 0], cr[0, 0], cb[0, 0]], [0.299, 0.999813, 0.331364], atol=1e-6)


@pytest.mark.parametrize("name", ["x4", "x8"])
def test_ensembles_of_an_equivariant_function_change_nothing(name):
    image = np.random.default_rng(0).random((1, 3, 5, 3)).astype(np.float32)
    calls = []

    def double(x):
        calls.append(x.shape)
        return np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)

    np.testing.assert_allclose(ensemble.run(double, image, name), double(image), atol=1e-6)
    assert len(calls) == {"x4": 4, "x8": 8}[name] + 1
    assert (1, 5, 3, 3) in calls


def test_the_reference_ensemble_is_a_fifth_too_dark():
    image = np.full((1, 2, 2, 3), 0.5, np.float32)
    np.testing.assert_allclose(ensemble.run(lambda x: x, image, "reference"), 0.4, atol=1e-6)


def test_all_eight_orientations_differ():
    image = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3, 1)
    seen = []
    ensemble.run(lambda x: seen.append(x.tobytes()) or x, image, "x8")
    assert len(set(seen)) == 8


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 7)], ids=str)
def test_stride_two_and_its_gradients(size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    _assert_same_with_gradients(conv_stride2, plain, x, kernel)


@pytest.mark.parametrize("size", [(1, 1), (3, 5)], ids=str)
def test_transposed_convolution_and_its_gradients(size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 4, 3, 2)), jnp.float32)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    _assert_same_with_gradients(conv_transpose2, plain, x, kernel)


def _assert_same_with_gradients(ours, plain, x, kernel):
    expected = plain(x, kernel)
    np.testing.assert_allclose(ours(x, kernel), expected, atol=1e-4)
    weight = jnp.cos(jnp.arange(expected.size, dtype=jnp.float32)).reshape(expected.shape)
    actual, wanted = (
        jax.jit(jax.grad(lambda x, kernel, f=f: jnp.sum(f(x, kernel) * weight), argnums=(0, 1)))(x, kernel)
        for f in (ours, plain)
    )
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
