"""Wires the maximum into the fusion network: part of its weights is set by hand and stays, the rest is trained.

One channel of full resolution carries the infrared level from the first convolution to the last but one, untouched.
Another collects the logit of the enhanced picture. The last two convolutions take the larger of both, exactly:
max(e, i) = e + relu(i - e), with the rectifiers made of leaky ones. Hot targets then follow one fixed curve of the
infrared level, and training has only the enhanced picture to learn. The network stays the ordinary `FusionUNet`.
"""

from collections.abc import Iterable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from fusion_open_data import FLOOR, GAIN, Picture, logits, window

from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.inference import fast_fusion
from esr_lefuse_jax.models.fusion import FusionUNet
from esr_lefuse_jax.models.layers import LEAKY_SLOPE

# Channels: of the infrared level in the encoder and in the decoder, and of the enhanced picture. Any will do; in the
# network that was wired for the package these had the least weight.
ENCODER, DECODER, ENHANCED = 15, 16, 1
BLOCKS = {"blk1": ENCODER, "upblk3": DECODER, "upblk4_0": DECODER, "upblk4_1": DECODER}
CLOSED = -30.0  # a logit whose sigmoid is zero
# Gates that an ablation holds: either path closed, or, without recalibration, both half open whatever the picture.
PATHS = {
    "recalibration": (("se_conv3", 0.0), ("se_conv4", 0.0)),
    "global": (("se_conv3", CLOSED),),
    "local": (("se_conv4", CLOSED),),
}
FEATURES = 32
SIDE = 128

Entry = tuple[str, Any, Any]


def entries() -> list[Entry]:
    """What is set by hand: path of a parameter, index into it, and values."""
    return [*_carrier(), *_maximum()]


def _carrier() -> list[Entry]:
    """The channel that carries the infrared level."""
    found: list[Entry] = []
    for block, channel in BLOCKS.items():
        path = f"{block}/local_path"
        for name in ("dwconv2/conv", "aux_g/conv"):
            found += [(f"{path}/{name}/{leaf}", np.s_[..., channel], 0.0) for leaf in ("kernel", "bias")]
        found += [(f"{path}/aux_g/bn/{leaf}", channel, 0.0) for leaf in ("scale", "bias")]
        path = f"{block}/global_path"
        found += [(f"{path}/{name}/project_out/kernel", np.s_[..., channel], 0.0) for name in ("attn", "ffn")]
        path = f"{block}/recalibration/se_conv3"
        found += [(f"{path}/kernel", np.s_[..., channel], 0.0), (f"{path}/bias", channel, CLOSED)]

    level = np.zeros((3, 3, 2), np.float32)
    level[1, 1, 1] = 2  # infrared as 2i - 1
    passed = np.zeros((3, 3, 2 * FEATURES), np.float32)
    passed[1, 1, FEATURES + ENCODER] = 1  # the decoder's own channels come first
    found += [("emb1/kernel", np.s_[..., ENCODER], level), ("emb1/bias", ENCODER, -1.0)]
    return [*found, ("conv_3_3/kernel", np.s_[..., DECODER], passed), ("conv_3_3/bias", DECODER, 0.0)]


def _maximum(slope: float = 1.0, offset: float = 0.0, infrared_offset: float = 0.0) -> list[Entry]:
    """The last two convolutions: the larger of slope * enhanced + offset and the infrared's logit."""
    units, last = np.zeros((3, 3, FEATURES, 16), np.float32), np.zeros((3, 3, 16, 1), np.float32)
    bias = np.zeros(16, np.float32)
    for unit, sign in ((0, 1), (1, -1)):
        units[1, 1, ENHANCED, unit], bias[unit] = sign * slope, sign * offset
    for unit, sign in ((2, 1), (3, -1)):
        units[1, 1, DECODER, unit], units[1, 1, ENHANCED, unit] = sign * GAIN / 2, -sign * slope
        bias[unit] = sign * (FLOOR + infrared_offset + GAIN / 2 - offset)
    # leaky(a) - leaky(-a) = (1 + s) a, and leaky(a) + s leaky(-a) = (1 - s^2) relu(a).
    straight, rectified = 1 + LEAKY_SLOPE, 1 - LEAKY_SLOPE**2
    last[1, 1, :4, 0] = (1 / straight, -1 / straight, 1 / rectified, LEAKY_SLOPE / rectified)
    found: list[Entry] = [("dec_0/kernel", ..., units), ("dec_0/bias", ..., bias)]
    return [*found, ("dec_2/kernel", ..., last), ("dec_2/bias", ..., 0.0)]


def with_contrast(variables: Any, slope: float, offset: float, infrared_offset: float) -> dict[str, Any]:
    """Wired variables whose enhanced picture has another contrast and brightness, and infrared another brightness.

    The L1 distance prefers the median of what may be, so a trained network is a little paler than its targets.
    """
    params = _wired(variables)
    for name, index, value in _maximum(slope, offset, infrared_offset):
        params[name][index] = value
    return _tree(params, _flat(variables["batch_stats"]))


def entries_without(path: str) -> list[Entry]:
    """What is set by hand where a path of `PATHS` is switched off in all modules."""
    found: list[Entry] = []
    for block in fast_fusion.BLOCKS:
        for gate, logit in PATHS[path]:
            name = f"{block}/recalibration/{gate}"
            found += [(f"{name}/kernel", ..., 0.0), (f"{name}/bias", ..., logit)]
    return [*found, *_carrier()]


def fixed_in(variables: Any) -> list[Entry]:
    """The entries that were set by hand in given variables; none in a network that is not wired."""
    params = _flat(variables["params"])
    if not _holds(params, _carrier()):
        return []
    off = [path for path in PATHS if _holds(params, entries_without(path))]
    return [*(entry for path in off for entry in entries_without(path)), *entries()]


def _wired(variables: Any) -> dict[str, Any]:
    """A copy of the parameters of a wired network."""
    params = {name: np.array(leaf) for name, leaf in _flat(variables["params"]).items()}
    if not _holds(params, _carrier()):
        raise ConfigError("these fusion weights are not wired: `train_open.py wire` comes first")
    return params


def _holds(params: dict[str, Any], wanted: list[Entry]) -> bool:
    changed = {name: np.array(leaf) for name, leaf in params.items()}
    for name, index, value in wanted:
        changed[name][index] = value
    return all(np.array_equal(leaf, changed[name]) for name, leaf in params.items())


def trained(params: Any, fixed: list[Entry]) -> Any:
    """Ones for the entries of a parameter tree that are trained, zeros for those set by hand."""
    flat = {name: np.ones(np.shape(leaf), np.float32) for name, leaf in _flat(params).items()}
    for name, index, _ in fixed:
        flat[name][index] = 0
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def without(variables: Any, path: str) -> dict[str, Any]:
    """Wired variables with a path of `PATHS` switched off, for an ablation."""
    params = _wired(variables)
    for name, index, value in entries_without(path):
        params[name][index] = value
    return _tree(params, _flat(variables["batch_stats"]))


def wire(variables: Any, pictures: Iterable[Picture]) -> dict[str, Any]:
    """Sets the entries, and the channel of the enhanced picture by least squares on a window of each picture.

    Args:
        variables: of a trained `FusionUNet`.
        pictures: as `fusion_open_data.pictures` gives them.
    """
    params = {name: np.array(leaf) for name, leaf in _flat(variables["params"]).items()}
    stats = {name: np.array(leaf) for name, leaf in _flat(variables["batch_stats"]).items()}
    for name, index, value in entries():
        params[name][index] = value
    for name, value in (("global_path/attn/project_out", 0.0), ("local_path/dwconv2/conv", 0.0)):
        params[f"upblk4_1/{name}/kernel"][..., ENHANCED] = value
    for gate in ("se_conv3", "se_conv4"):  # both half open, whatever the picture
        params[f"upblk4_1/recalibration/{gate}/kernel"][..., ENHANCED] = 0
        params[f"upblk4_1/recalibration/{gate}/bias"][ENHANCED] = 0

    tree = _tree(params, stats)
    gram, moment = 0.0, 0.0
    for seed, picture in enumerate(pictures):
        example = window(picture, SIDE, np.random.default_rng(seed))
        given, hidden = _features(tree, example)
        ones = np.ones((len(given), 1), np.float32)
        inputs = np.concatenate([given, hidden, ones], axis=-1).astype(np.float64)
        wanted = logits(example["enhanced"]).reshape(-1).astype(np.float64)
        gram, moment = gram + inputs.T @ inputs, moment + inputs.T @ wanted
    gram = np.asarray(gram)
    weights = np.linalg.solve(gram + 1e-4 * np.diag(np.diag(gram)), moment)
    direct, gated, offset = weights[:FEATURES], weights[FEATURES:-1], weights[-1]

    # The block gives x + texture / 2 + context / 2 in this channel, and the context holds x again.
    direct[ENHANCED] -= 1.5
    path = "upblk4_1/local_path/aux_g"
    params[f"{path}/conv/kernel"][0, 0, :, ENHANCED] = 2 * direct
    params[f"{path}/conv/bias"][ENHANCED] = 0
    params[f"{path}/bn/scale"][ENHANCED] = 1
    params[f"{path}/bn/bias"][ENHANCED] = 2 * offset
    stats[f"{path}/bn/mean"][ENHANCED] = 0
    stats[f"{path}/bn/var"][ENHANCED] = 1
    params["upblk4_1/local_path/dwconv2/conv/bias"][ENHANCED] = 0
    params["upblk4_1/global_path/ffn/project_out/kernel"][0, 0, :, ENHANCED] = 2 * gated
    return _tree(params, stats)


@jax.jit
def _captured(variables: Any, y: jax.Array, infrared: jax.Array) -> tuple[jax.Array, jax.Array]:
    def wanted(module: Any, _: str) -> bool:
        return module.path in (("upblk4_0",), ("upblk4_1", "global_path", "ffn", "dwconv"))

    _, state = FusionUNet().apply(
        variables, y, infrared, capture_intermediates=wanted, mutable=["intermediates"]
    )
    found = state["intermediates"]
    given = found["upblk4_0"]["__call__"][0]
    gate, value = jnp.split(found["upblk4_1"]["global_path"]["ffn"]["dwconv"]["__call__"][0], 2, axis=-1)
    return given, fast_fusion.gelu(gate) * value


def _features(variables: Any, example: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    given, hidden = _captured(variables, example["visible"][None, ..., :1], example["infrared"][None])
    return np.asarray(given).reshape(-1, given.shape[-1]), np.asarray(hidden).reshape(-1, hidden.shape[-1])


def _flat(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _tree(params: dict[str, Any], stats: dict[str, Any]) -> dict[str, Any]:
    unflatten = flax.traverse_util.unflatten_dict
    return {"params": unflatten(params, sep="/"), "batch_stats": unflatten(stats, sep="/")}
