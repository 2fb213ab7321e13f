import numpy as np
import pytest
from PIL import Image

from esr_lefuse_jax.data import filters, targets
from esr_lefuse_jax.data.cache import ByteCache
from esr_lefuse_jax.data.darken import darken, lamp_field
from esr_lefuse_jax.data.degrade import downscale_photo, jpeg, sensor_noise
from esr_lefuse_jax.data.transforms import Window, at_least, dihedral, random_window
from esr_lefuse_jax.synthetic import render_night_pair


@pytest.fixture(scope="module")
def night():
    return render_night_pair(96, 128, seed=2)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_box_mean_and_local_maximum_by_definition():
    image = rng().random((9, 13)).astype(np.float32)
    for radius in (1, 2, 5):
        padded = np.pad(image, radius, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2)
        np.testing.assert_allclose(filters.box_mean(image, radius), windows.mean((2, 3)), atol=1e-6)
        np.testing.assert_array_equal(filters.local_maximum(image, radius), windows.max((2, 3)))


def test_gaussian_blur_against_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = rng().random((20, 31, 3)).astype(np.float32)
    ours = filters.gaussian_blur(image, 1.5)
    radius = int(np.ceil(4.5))
    theirs = ndimage.gaussian_filter(image, (1.5, 1.5, 0), mode="nearest", radius=(radius, radius, 0))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_guided_filter_smooths_flats_and_keeps_edges():
    step = np.where(np.arange(40) < 20, 0.2, 0.8).astype(np.float32) * np.ones((30, 1), np.float32)
    noisy = step + 0.02 * rng().standard_normal(step.shape).astype(np.float32)
    smooth = filters.guided_filter(noisy, noisy, 4, 0.01)
    assert (smooth[:, 4:14] - 0.2).std() < 0.5 * (noisy[:, 4:14] - 0.2).std()
    assert smooth[:, 21].mean() - smooth[:, 18].mean() > 0.5
    np.testing.assert_allclose(filters.guided_filter(step * 0 + 0.3, step * 0 + 0.3, 4, 0.01), 0.3, atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 48), (33, 47), (5, 70), (3, 3)])
def test_pyramid_gives_the_image_back(shape):
    image = rng().random(shape).astype(np.float32)
    pyramid = filters.laplacian_pyramid(image, 4)
    np.testing.assert_allclose(filters.collapse(pyramid), image, atol=1e-6)


def test_resize_is_antialiased_and_keeps_the_mean():
    image = rng().random((64, 64, 3)).astype(np.float32)
    for kind in ("bicubic", "bilinear", "box"):
        small = filters.resize(image, 16, 16, kind)
        assert small.shape == (16, 16, 3)
        assert abs(small.mean() - image.mean()) < 0.01
        assert small.std() < 0.5 * image.std()
    np.testing.assert_allclose(
        filters.resize(image[..., 0], 16, 16, "box"),
        image[..., 0].reshape(16, 4, 16, 4).mean((1, 3)),
        atol=1e-6,
    )


def test_enhancement_lifts_the_night_and_leaves_the_day(night):
    dark, day = targets.luminance(night.visible), targets.luminance(night.clean)
    lifted = targets.enhance(dark)
    assert lifted.mean() > 2.5 * dark.mean()
    assert lifted.min() >= 0
    assert lifted.max() <= 1
    assert lifted.std() > 1.3 * dark.std()
    np.testing.assert_array_equal(targets.enhance(day), day)


def test_enhancement_of_a_crop_is_the_crop_of_the_enhancement(night):
    y = targets.luminance(np.concatenate([night.visible] * 2, axis=1))
    tone = targets.measure_tone(y)
    window = Window(30, 100, 32, 40)
    outer = window.grown(targets.CONTEXT, *y.shape)
    crop = window.inside(outer).of(targets.enhance(outer.of(y), tone))
    np.testing.assert_allclose(crop, window.of(targets.enhance(y, tone)), atol=1e-5)


def test_enhancement_does_not_hang_on_one_lamp(night):
    y = targets.luminance(night.visible)
    lamp = y.copy()
    lamp[4:10, 4:10] = 1.0
    change = np.abs(targets.enhance(lamp) - targets.enhance(y))[40:]
    assert change.mean() < 0.02


def test_blocks_in_the_dark_are_smoothed_and_edges_kept():
    blocks = np.kron(rng().choice([0.02, 0.032], (8, 8)), np.ones((8, 8))).astype(np.float32)
    blocks[:, 32:] += 0.5
    cleaned = targets.without_blocks(blocks)
    assert cleaned[:, :24].std() < 0.6 * blocks[:, :24].std()
    np.testing.assert_allclose(cleaned[:, 48:], blocks[:, 48:], atol=1e-6)
    assert cleaned[:, 34].mean() - cleaned[:, 29].mean() > 0.4


def test_merging_keeps_warm_people_and_visible_texture(night):
    enhanced = targets.enhance(targets.luminance(night.visible))
    merged = targets.merge(enhanced, night.infrared)
    hot = night.infrared > 0.85
    assert merged[hot].mean() > 0.75
    assert merged.min() >= 0
    assert merged.max() <= 1
    cold = filters.box_mean(night.infrared, 6) < 0.2
    assert np.corrcoef(merged[cold], enhanced[cold])[0, 1] > 0.8
    np.testing.assert_allclose(targets.merge(enhanced, enhanced), enhanced, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_stay_finite(value):
    flat = np.full((20, 30), value, np.float32)
    merged = targets.merge(targets.enhance(flat), flat)
    assert np.isfinite(merged).all()
    assert merged.std() < 1e-3


def test_darkening_makes_an_aligned_night(night):
    for seed in range(6):
        dark = darken(night.clean, rng(seed))
        assert dark.shape == night.clean.shape
        assert dark.dtype == np.float32
        assert 0.01 < dark.mean() < 0.35
        # Aligned: shifting the truth makes the two agree less.
        truth, seen = targets.luminance(night.clean), targets.luminance(dark)
        agreement = np.corrcoef(truth.ravel(), seen.ravel())[0, 1]
        assert agreement > np.corrcoef(np.roll(truth, 5, axis=1).ravel(), seen.ravel())[0, 1]
    np.testing.assert_array_equal(darken(night.clean, rng(3)), darken(night.clean, rng(3)))
    assert not np.array_equal(darken(night.clean, rng(3)), darken(night.clean, rng(4)))


def test_lamp_field_stays_in_range():
    for seed in range(10):
        field = lamp_field(30, 40, rng(seed))
        assert field.shape == (30, 40)
        assert field.min() >= 0
        assert field.max() <= 1


def test_noise_has_the_asked_variance():
    signal = np.full((200, 200, 3), 0.25, np.float32)
    noise = sensor_noise(signal, shot=0.01, read=0.02, rng=rng()) - signal
    assert abs(noise.mean()) < 2e-3
    np.testing.assert_allclose(noise.std(), np.sqrt(0.01 * 0.25 + 0.02**2), rtol=0.1)


def test_jpeg_and_degradations():
    photo = np.asarray(Image.fromarray((rng().random((8, 8, 3)) * 255).astype(np.uint8)).resize((64, 64)))
    photo = photo.astype(np.float32) / 255
    assert np.abs(jpeg(photo, 95) - photo).mean() < np.abs(jpeg(photo, 20) - photo).mean()
    plain = downscale_photo(photo, 4)
    assert plain.shape == (16, 16, 3)
    for seed in range(5):
        degraded = downscale_photo(photo, 4, rng(seed))
        assert degraded.shape == plain.shape
        assert 0 <= degraded.min() <= degraded.max() <= 1
        assert 0 < np.abs(degraded - plain).mean() < 0.2


def test_windows_and_turns():
    array = np.arange(6 * 9).reshape(6, 9)
    window = Window(2, 5, 3, 3)
    np.testing.assert_array_equal(window.of(array), array[2:5, 5:8])
    np.testing.assert_array_equal(window.of(array.repeat(2, 0).repeat(2, 1), 2)[::2, ::2], window.of(array))
    outer = window.grown(2, 6, 9)
    assert outer == Window(0, 3, 6, 6)
    np.testing.assert_array_equal(window.inside(outer).of(outer.of(array)), window.of(array))
    tops = {random_window(array, 4, rng(seed)).top for seed in range(40)}
    assert tops == {0, 1, 2}
    assert at_least(array, 20).shape == (20, 20)
    np.testing.assert_array_equal(at_least(array, 20)[:6, :9], array)
    square = np.arange(16).reshape(4, 4)
    assert len({dihedral(square, which).tobytes() for which in range(8)}) == 8
    np.testing.assert_array_equal(dihedral(square, 0), square)


def test_cache_keeps_its_budget():
    cache = ByteCache(1000)
    made = []

    def make(key, size):
        made.append(key)
        return np.zeros(size, np.uint8)

    for key in ("a", "b", "a"):
        cache.get(key, lambda key=key: make(key, 400))
    assert made == ["a", "b"]
    cache.get("c", lambda: make("c", 400))  # b, unused for longest, has to go
    cache.get("a", lambda: make("a", 400))
    cache.get("b", lambda: make("b", 400))
    assert made == ["a", "b", "c", "b"]
    cache.get("huge", lambda: make("huge", 5000))
    cache.get("huge", lambda: make("huge", 5000))
    assert made.count("huge") == 2
