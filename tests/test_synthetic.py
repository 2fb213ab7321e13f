import numpy as np
import pytest

from esr_lefuse_jax.synthetic import render_night_pair


@pytest.fixture(scope="module")
def pair():
    return render_night_pair(128, 160, seed=3)


def test_shapes_types_and_range(pair):
    assert pair.visible.shape == pair.clean.shape == (128, 160, 3)
    assert pair.infrared.shape == (128, 160)
    for array in pair:
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
        assert array.min() >= 0
        assert array.max() <= 1


def test_same_seed_same_pair_other_seed_other_pair(pair):
    again = render_night_pair(128, 160, seed=3)
    assert all((a == b).all() for a, b in zip(pair, again, strict=True))
    other = render_night_pair(128, 160, seed=4)
    assert np.abs(other.clean - pair.clean).mean() > 0.03


def test_it_is_a_night(pair):
    assert pair.visible.mean() < 0.25, "a night must be dark"
    assert pair.visible.max() > 0.85, "lamps and windows must be bright"
    assert pair.clean.mean() > 2.5 * pair.visible.mean()
    top = pair.infrared[:6]
    assert top.min() < 0.1, "the sky must be cold"
    assert pair.infrared.max() > 0.9, "people must be warm"


def test_warm_people_are_what_the_dark_hides(pair):
    hot = pair.infrared > 0.85
    assert 20 < hot.sum() < 0.1 * hot.size
    assert np.median(pair.visible.mean(-1)[hot]) < 0.3


def test_the_three_pictures_are_aligned(pair):
    def edges(image):
        return np.hypot(*np.gradient(image)).ravel()

    clean, heat = edges(pair.clean.mean(-1)), edges(pair.infrared)
    aligned = np.corrcoef(clean, heat)[0, 1]
    shifted = np.corrcoef(clean, edges(np.roll(pair.infrared, 8, axis=1)))[0, 1]
    assert aligned > 0.2
    assert aligned > shifted + 0.1


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 70), (90, 40)])
def test_other_sizes(height, width):
    pair = render_night_pair(height, width, seed=1)
    assert pair.visible.shape == (height, width, 3)
    assert np.isfinite(pair.visible).all()


def test_too_small():
    with pytest.raises(ValueError, match="at least 16"):
        render_night_pair(8, 100)
