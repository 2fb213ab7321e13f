"""The weights that come with the package: they load, are the ones of the model card, and give its output."""

import numpy as np
import pytest

from esr_lefuse_jax.inference.pipeline import load
from esr_lefuse_jax.synthetic import render_night_pair
from esr_lefuse_jax.weights import load_weights, weights_hash
from esr_lefuse_jax.weights_shipped import shipped_path

HASHES = {
    "fusion": "24b25e028978accb6aaa8dae13dddfc3d28862cb139030a0aa470a2b59224a6e",
    "sr": "ad4c37325cafa44f0e0ec13be86bc10a1f3ee3a4b749ee9fdf0a063564fca4f7",
}
# Every sixteenth pixel of the fused luminance of a rendered pair, and of the middle row of its enlargement.
FUSED = [0.2176, 0.7813, 0.6527, 0.2384, 0.284, 0.9449, 0.4812, 0.2037, 0.3724, 0.4184, 0.663, 0.4352]
ENLARGED = [0.9625, 0.3302, 0.3013, 0.8083, 0.3687, 0.39, 0.3884, 0.503]


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


def test_hot_targets_follow_the_infrared_level():
    """The maximum is wired into these weights (`recipes/fusion_open_merge.py`): the infrared is not guessed at."""
    visible = np.full((64, 96, 3), 0.04, np.float32)
    visible[40:] = 0.10
    infrared = np.full((64, 96), 0.1, np.float32)
    infrared[16:32, 16:80] = np.linspace(0.85, 1, 64, dtype=np.float32)
    fused = load(fusion_only=True, gray=True).fuse(visible, infrared)[..., 0]
    seen = 1 / (1 + np.exp(2.6 - 5.4 * infrared[16:32, 16:80]))
    np.testing.assert_allclose(fused[16:32, 16:80], seen, atol=2e-4)
    assert fused[:8].max() < 0.7
