"""The weights that come with the package: they load, are the ones of the model card, and give its output."""

import numpy as np
import pytest

from esr_lefuse_jax.cli import main
from esr_lefuse_jax.errors import CheckpointError
from esr_lefuse_jax.inference.pipeline import load, load_variables
from esr_lefuse_jax.synthetic import render_night_pair
from esr_lefuse_jax.weights import load_weights, weights_hash
from esr_lefuse_jax.weights_shipped import shipped_path

HASHES = {
    "fusion_research": "80828a7072f5108d6eec415dc1e7505857778a1ff449a33e246cfde77edd853a",
    "fusion_open": "24b25e028978accb6aaa8dae13dddfc3d28862cb139030a0aa470a2b59224a6e",
    "sr_open": "2fea42ce67ef450140db5c2857a224b6d009b77cc0724923e6c9c2d574229714",
}
# Every sixteenth pixel of the fused luminance of a rendered pair, and of the middle row of its enlargement.
FUSED = [0.2176, 0.7813, 0.6527, 0.2384, 0.284, 0.9449, 0.4812, 0.2037, 0.3724, 0.4184, 0.663, 0.4352]
FUSED_RESEARCH = [
    0.2176,
    0.661,
    0.5315,
    0.2384,
    0.272,
    0.8854,
    0.4814,
    0.2037,
    0.3664,
    0.3808,
    0.5777,
    0.3725,
]
ENLARGED = [0.9569, 0.3322, 0.2834, 0.8021, 0.299, 0.3695, 0.3991, 0.4921]


@pytest.mark.parametrize("name", sorted(HASHES))
def test_hash_and_size(name):
    network, weights_set = name.split("_")
    path = shipped_path(network, weights_set)
    loaded = load_weights(path, network)
    assert weights_hash(loaded.variables) == HASHES[name]
    assert HASHES[name] in (path.parent / "MODEL_CARD.md").read_text()
    assert path.stat().st_size < 10_000_000
    assert ("terms" in loaded.metadata) == (weights_set == "research")


def test_sizes_of_the_package():
    assert sum(shipped_path(network).stat().st_size for network in ("fusion", "sr")) < 16_000_000
    folder = shipped_path("fusion").parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30_000_000
    assert {path.stem for path in folder.glob("*.safetensors")} == set(HASHES)


def test_sets_go_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert load_weights("research", "fusion").metadata["sha256"] == HASHES["fusion_research"]
    with pytest.raises(CheckpointError, match=r"no sr weights 'research'.*it has open"):
        load_weights("research", "sr")
    with pytest.raises(CheckpointError, match="say of which network"):
        load_weights("open")
    notes = load_variables("research", None).notes
    assert "non-commercial" in notes[0]
    assert "non-commercial" not in notes[1]
    assert main(["weights", "list"]) == 0
    assert "--fusion_ckpt research; trained with LLVIP" in capsys.readouterr().out
    assert main(["convert", "research", "r.pth", "--network", "fusion"]) == 0
    said = capsys.readouterr()
    assert "terms       trained with LLVIP" in said.out
    assert "keeps no note" in said.err
    assert main(["convert", "research", "r.safetensors", "--network", "fusion"]) == 0
    assert "non-commercial" in load_weights("r.safetensors").metadata["terms"]
    with pytest.raises(CheckpointError, match="research: no such file"):
        load_weights("./research", "fusion")
    (tmp_path / "research").write_bytes(b"a file of the user's own comes first")
    with pytest.raises(CheckpointError, match="research"):
        load_weights("research", "fusion")


def test_output_is_pinned():
    pair = render_night_pair(48, 64, seed=3)
    result = load()(pair.visible, pair.infrared)
    assert result.fused.shape == (48, 64, 3)
    assert result.hr.shape == (192, 256, 3)
    np.testing.assert_allclose(result.fused[8::16, 8::16, 1].ravel(), FUSED, atol=2e-3)
    np.testing.assert_allclose(result.hr[96, 8::32, 1], ENLARGED, atol=2e-3)


def test_research_gives_its_own_output():
    pair = render_night_pair(48, 64, seed=3)
    fused = load("research", fusion_only=True).fuse(pair.visible, pair.infrared)
    np.testing.assert_allclose(fused[8::16, 8::16, 1].ravel(), FUSED_RESEARCH, atol=2e-3)


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
