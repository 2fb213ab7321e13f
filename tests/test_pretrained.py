"""The weights that come with the package: they load, are the ones of the model card, and give its output."""

import numpy as np
import pytest

from esr_lefuse_jax.inference.pipeline import load
from esr_lefuse_jax.synthetic import render_night_pair
from esr_lefuse_jax.weights import load_weights, weights_hash
from esr_lefuse_jax.weights_shipped import shipped_path

HASHES = {
    "fusion": "b46e2f5a4c8c1454fe346d91b2ab28da63ba4ab4186aef70745730692acfc34d",
    "sr": "c9c8f666d3cbd2fb53eaa0e6483e846ec423ce42f3265e3c5efdeab0b4d75337",
}
# Every sixteenth pixel of the fused luminance of a rendered pair, and of the middle row of its enlargement.
FUSED = [0.2122, 0.6891, 0.6648, 0.2429, 0.4344, 0.9322, 0.3688, 0.2508, 0.4361, 0.4562, 0.6535, 0.4922]
ENLARGED = [0.9051, 0.3677, 0.4098, 0.7511, 0.4615, 0.438, 0.489, 0.5674]


@pytest.mark.parametrize("network", sorted(HASHES))
def test_hash_and_size(network):
    path = shipped_path(network)
    loaded = load_weights(path, network)
    assert weights_hash(loaded.variables) == HASHES[network]
    assert HASHES[network] in (path.parent / "MODEL_CARD.md").read_text()
    assert path.stat().st_size < 10_000_000


def test_both_fit_into_16_megabytes():
    assert sum(shipped_path(network).stat().st_size for network in HASHES) < 16_000_000


def test_output_is_pinned():
    pair = render_night_pair(48, 64, seed=3)
    result = load()(pair.visible, pair.infrared)
    assert result.fused.shape == (48, 64, 3)
    assert result.hr.shape == (192, 256, 3)
    np.testing.assert_allclose(result.fused[8::16, 8::16, 1].ravel(), FUSED, atol=2e-3)
    np.testing.assert_allclose(result.hr[96, 8::32, 1], ENLARGED, atol=2e-3)


def test_night_is_brightened_and_warm_people_stay_bright():
    pair = render_night_pair(96, 128, seed=3)
    fused = load(fusion_only=True).fuse(pair.visible, pair.infrared) @ np.array([0.299, 0.587, 0.114])
    dark = pair.visible @ np.array([0.299, 0.587, 0.114], np.float32)
    assert fused.mean() > 1.5 * dark.mean()
    warm = pair.infrared > np.quantile(pair.infrared, 0.99)
    assert fused[warm].mean() > fused.mean()


def test_hot_targets_keep_every_level():
    """The maximum is wired into these weights (`recipes/fusion_open_merge.py`): what the infrared shows is not guessed."""
    visible = np.full((64, 96, 3), 0.04, np.float32)
    visible[40:] = 0.10
    infrared = np.full((64, 96), 0.1, np.float32)
    infrared[16:32, 16:80] = np.linspace(0.85, 1, 64, dtype=np.float32)
    fused = load(fusion_only=True, gray=True).fuse(visible, infrared)[..., 0]
    seen = 1 / (1 + np.exp(2.6 - 5.4 * infrared[16:32, 16:80]))
    np.testing.assert_allclose(fused[16:32, 16:80], seen, atol=2e-3)
    assert fused[:8].max() < 0.7
