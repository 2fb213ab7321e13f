"""What `recipes/` does to weights: the wired maximum, its contrast, ablations, and which entries a leg leaves alone."""

import pathlib
import sys

import jax
import networks
import numpy as np
import pytest

from esr_lefuse_jax.errors import ConfigError

pytest.importorskip("cv2", reason="the recipes need the extra `eval`")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "recipes"))

import fusion_open_data
import fusion_open_merge as merge

SHAPE = (24, 40)


def by_hand(entries):
    """The formula weights with entries set."""
    variables = networks.variables("fusion")
    params = {name: np.array(leaf) for name, leaf in merge._flat(variables["params"]).items()}
    for name, index, value in entries:
        params[name][index] = value
    return merge._tree(params, merge._flat(variables["batch_stats"]))


@pytest.fixture(scope="module")
def wired():
    return by_hand(merge.entries())


def fuse(variables, infrared):
    y = networks.image("y", (1, 1, *SHAPE))
    rows, columns = networks.sizes(1, *SHAPE)
    prepared = networks.fast_fusion.prepare(variables)
    return np.asarray(networks.fuse_whole(prepared, y, infrared, rows, columns))


def test_the_output_is_the_maximum_of_both(wired):
    """Where the infrared wins the result is its curve; elsewhere it is larger."""
    infrared = np.linspace(0, 1, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(1, *SHAPE, 1)
    curve = 1 / (1 + np.exp(-merge.FLOOR - merge.GAIN * infrared))
    difference = fuse(wired, infrared) - curve
    assert difference.min() > -1e-5
    assert (np.abs(difference) < 1e-5).mean() > 0.05
    brighter = merge.with_contrast(wired, 1.0, -50.0, 0.5)  # the enhanced picture never wins
    curve = 1 / (1 + np.exp(-merge.FLOOR - 0.5 - merge.GAIN * infrared))
    np.testing.assert_allclose(fuse(brighter, infrared), curve, atol=1e-5)


@pytest.mark.parametrize("path", sorted(merge.PATHS))
def test_a_path_that_is_off_stays_off_whatever_the_contrast(wired, path):
    off = merge.with_contrast(merge.without(wired, path), 1.3, 0.1, 0.0)
    fixed = merge.fixed_in(off)
    mask = merge.trained(off["params"], fixed)
    for gate, _ in merge.PATHS[path]:
        kernel = mask["blk3"]["recalibration"][gate]["kernel"]
        assert not kernel.any()
    again = merge.without(off, path)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(off), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_wired_weights_have_fixed_entries(wired):
    ordinary = networks.variables("fusion")
    assert merge.fixed_in(ordinary) == []
    for change in (
        lambda: merge.with_contrast(ordinary, 1.0, 0.0, 0.0),
        lambda: merge.without(ordinary, "local"),
    ):
        with pytest.raises(ConfigError, match="wire"):
            change()
    mask = merge.trained(wired["params"], merge.fixed_in(wired))
    assert sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(mask)) == 6349


def test_wiring_puts_the_least_squares_into_the_channel():
    """The fit, through the module's residuals and gates, is what the enhanced channel gives."""
    rng = np.random.default_rng(0)
    picture = fusion_open_data.Picture(*((rng.random((160, 200)) * 255).astype(np.uint8) for _ in range(3)))
    wired = merge.wire(networks.variables("fusion"), [picture])
    example = fusion_open_data.window(picture, merge.SIDE, np.random.default_rng(0))
    given, hidden = merge._features(wired, example)
    inputs = np.concatenate([given, hidden, np.ones((len(given), 1))], axis=-1)
    gram = inputs.T @ inputs
    wanted = fusion_open_data.logits(example["enhanced"]).reshape(-1)
    fitted = inputs @ np.linalg.solve(gram + 1e-4 * np.diag(np.diag(gram)), inputs.T @ wanted)
    infrared = merge.FLOOR + merge.GAIN * example["infrared"].reshape(-1)
    expected = 1 / (1 + np.exp(-np.maximum(fitted, infrared)))
    fused = networks.fusion_module(wired, example["visible"][None, ..., :1], example["infrared"][None])
    np.testing.assert_allclose(np.asarray(fused).reshape(-1), expected, atol=1e-3)
    assert (fitted > infrared).mean() > 0.05


def test_a_folder_without_frames_is_named(tmp_path):
    with pytest.raises(ConfigError, match="vi/"):
        fusion_open_data.pictures(tmp_path)
