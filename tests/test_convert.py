"""State dicts to Flax variables and back, recognition, published names, and every kind of mismatch."""

import math
import re

import formula
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esr_lefuse_jax.errors import CheckpointError
from esr_lefuse_jax.models.fusion import FusionUNet
from esr_lefuse_jax.models.rrdb import RRDBNet
from esr_lefuse_jax.models.sr import ESRUNet
from esr_lefuse_jax.models.vgg import VGG16Features
from weights_conversion.convert import (
    PUBLISHED_WRAPPER,
    flatten,
    from_checkpoint,
    from_leaves,
    from_state_dict,
    to_state_dict,
    unflatten,
)
from weights_conversion.matching import MismatchError, summarise
from weights_conversion.pth_reader import read_pth
from weights_conversion.pth_writer import write_pth
from weights_conversion.torch_names import NETWORKS, SR_SCALES, leaves

# As published; LEFuse and the ESR-U-Net of the ESR-LEFuse paper, Real-ESRGAN x4plus, VGG16 up to relu4_3.
PARAMETERS = {"fusion": 3_898_345, "sr": 2_869_462, "rrdb": 16_697_987, "vgg16": 7_635_264}


def _state(network, **options):
    return {
        leaf.torch_key: formula.weight(leaf.torch_key, leaf.torch_shape)
        for leaf in leaves(network, **options)
    }


@pytest.fixture(scope="module")
def states():
    return {"fusion": formula.state_dict("fusion"), "sr": formula.state_dict("sr"), "vgg16": _state("vgg16")}


@pytest.mark.parametrize("network", ["fusion", "sr"])
def test_the_table_is_the_original_state_dict(network):
    table = {leaf.torch_key: leaf.torch_shape for leaf in leaves(network)}
    assert table == formula.key_shapes(network)


@pytest.mark.parametrize("network", NETWORKS)
def test_parameter_counts(network):
    count = sum(math.prod(leaf.shape) for leaf in leaves(network) if leaf.path.startswith("params/"))
    assert count == PARAMETERS[network]


@pytest.mark.parametrize(
    ("network", "module", "channels", "options"),
    [
        ("fusion", FusionUNet(), (1, 1), {}),
        ("sr", ESRUNet(), (3,), {}),
        ("sr", ESRUNet(scale=3), (3,), {"scale": 3}),
        ("rrdb", RRDBNet(), (3,), {}),
        ("rrdb", RRDBNet(num_blocks=6), (3,), {"num_blocks": 6}),
        ("vgg16", VGG16Features(), (3,), {}),
    ],
)
def test_the_table_is_what_the_models_need(network, module, channels, options):
    images = [jnp.zeros((1, 16, 16, c)) for c in channels]
    needed = jax.eval_shape(lambda: module.init(jax.random.key(0), *images))
    table = {leaf.path: (leaf.shape, leaf.dtype) for leaf in leaves(network, **options)}
    assert table == {path: (leaf.shape, leaf.dtype) for path, leaf in flatten(needed).items()}


@pytest.mark.parametrize("network", ["fusion", "sr"])
def test_pth_to_variables_to_pth_is_bit_identical(tmp_path, states, network):
    write_pth(tmp_path / "in.pth", states[network], PUBLISHED_WRAPPER[network])
    converted = from_checkpoint(read_pth(tmp_path / "in.pth"))
    assert converted.network == network
    assert converted.ignored == {}
    assert converted.parameter_count == PARAMETERS[network]
    assert all(array.dtype in (np.float32, np.int32) for array in converted.arrays.values())
    state = to_state_dict(network, converted.arrays)
    write_pth(tmp_path / "out.pth", state, PUBLISHED_WRAPPER[network])
    assert (tmp_path / "out.pth").read_bytes() == (tmp_path / "in.pth").read_bytes()
    assert list(state) == list(states[network])
    for key, array in states[network].items():
        assert state[key].dtype == array.dtype
        assert state[key].tobytes() == array.tobytes()


@pytest.mark.torch
@pytest.mark.parametrize("network", ["fusion", "sr"])
def test_torch_reads_and_writes_the_same(tmp_path, states, network):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
    tensors = {key: torch.from_numpy(array.copy()) for key, array in states[network].items()}
    torch.save({"model": tensors, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "in.pth")
    converted = from_checkpoint(read_pth(tmp_path / "in.pth"))
    assert set(converted.ignored) == {"epoch", "optimizer"}
    write_pth(tmp_path / "out.pth", to_state_dict(network, converted.arrays), "model")
    loaded = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert list(loaded) == list(tensors)
    for key, tensor in tensors.items():
        assert loaded[key].dtype == tensor.dtype
        assert torch.equal(loaded[key], tensor)


@pytest.mark.torch
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_is_read(tmp_path, protocol):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    base = torch.arange(24.0).reshape(4, 6)
    saved = {
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": np.float64(3.5),
        "epoch": 3,
        "views": [base.t(), base[1:3, ::2], base[0, 0], torch.nn.Parameter(base)],
        "types": [
            base.to(kind) for kind in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool)
        ],
        "size": base.shape,
        "device": torch.device("cpu"),
        "type": torch.float16,
    }
    torch.save(saved, tmp_path / "x.pth", pickle_protocol=protocol)
    found = read_pth(tmp_path / "x.pth")
    assert found["best"] == 3.5
    assert found["size"] == (4, 6)
    assert found["optimizer"]["param_groups"][0]["lr"] == optimizer.param_groups[0]["lr"]
    pairs = [(found["model"][key], tensor) for key, tensor in saved["model"].items()]
    pairs += list(zip(found["views"] + found["types"], saved["views"] + saved["types"], strict=True))
    for tensor, expected in pairs:
        expected = expected.detach()
        expected = expected.float() if expected.dtype == torch.bfloat16 else expected
        np.testing.assert_array_equal(tensor.numpy(), expected.numpy())


@pytest.mark.torch
def test_layouts_by_what_the_layers_compute():
    """The change of axes is right when Flax's layers compute what PyTorch's do."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
    import flax.linen as nn

    from weights_conversion.layouts import CONV, CONV_TRANSPOSE, DENSE

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 7, 4)).astype(np.float32)
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())

    def close(module, kernel, expected, inputs=x):
        out = module.apply({"params": {"kernel": np.ascontiguousarray(kernel)}}, inputs)
        np.testing.assert_allclose(out, expected, atol=2e-5)

    weight = rng.normal(size=(5, 4, 3, 3)).astype(np.float32)
    expected = (
        torch.nn.functional.conv2d(nchw, torch.from_numpy(weight), padding=1).permute(0, 2, 3, 1).numpy()
    )
    close(nn.Conv(5, (3, 3), use_bias=False), CONV.to_flax(weight), expected)
    weight = rng.normal(size=(4, 1, 3, 3)).astype(np.float32)
    expected = torch.nn.functional.conv2d(nchw, torch.from_numpy(weight), padding=1, groups=4)
    depthwise = nn.Conv(4, (3, 3), feature_group_count=4, use_bias=False)
    close(depthwise, CONV.to_flax(weight), expected.permute(0, 2, 3, 1).numpy())
    weight = rng.normal(size=(4, 5, 4, 4)).astype(np.float32)
    expected = torch.nn.functional.conv_transpose2d(nchw, torch.from_numpy(weight), stride=2, padding=1)
    up = nn.ConvTranspose(5, (4, 4), (2, 2), use_bias=False)
    close(up, CONV_TRANSPOSE.to_flax(weight), expected.permute(0, 2, 3, 1).numpy())
    weight = rng.normal(size=(5, 4)).astype(np.float32)
    expected = torch.nn.functional.linear(torch.from_numpy(x), torch.from_numpy(weight)).numpy()
    close(nn.Dense(5, use_bias=False), DENSE.to_flax(weight), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_layouts_are_inverse(network):
    for leaf in leaves(network, **({"num_blocks": 6} if network == "rrdb" else {})):
        array = np.arange(math.prod(leaf.torch_shape)).reshape(leaf.torch_shape)
        there = leaf.layout.to_flax(array)
        assert there.shape == leaf.shape
        np.testing.assert_array_equal(leaf.layout.to_torch(there), array)


# Recognition and names


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model", "params", "params_ema", "state_dict"])
def test_prefixes_and_wrappers(states, prefix, wrapper):
    state = {prefix + key: array for key, array in states["sr"].items()}
    value = state if wrapper is None else {wrapper: state, "epoch": 7}
    converted = from_checkpoint(value)
    assert converted.network == "sr"
    assert converted.ignored == ({} if wrapper is None else {"epoch": "state of the training, not weights"})
    np.testing.assert_array_equal(converted.arrays["params/head/bias"], states["sr"]["head.0.bias"])


@pytest.mark.parametrize("prefix", ["fuser.", "content.fuser.", "module.fuser.", ""])
def test_fusion_prefixes(states, prefix):
    state = {prefix + key.removeprefix("fuser."): array for key, array in states["fusion"].items()}
    converted = from_checkpoint({"model": {"state_dict": state}})
    assert converted.network == "fusion"
    np.testing.assert_array_equal(converted.arrays["params/emb1/bias"], states["fusion"]["fuser.emb1.bias"])


def _full_checkpoint(states):
    """What the published fusion checkpoint holds: the network, the loss's VGG16, its normalisation
    constants."""
    vgg = {
        re.sub("^features", "content.vgg.vgg_pretrained_features", key): array
        for key, array in states["vgg16"].items()
    }
    deeper = {"content.vgg.vgg_pretrained_features.24.weight": np.zeros((512, 512, 3, 3), np.float32)}
    normalize = {"content.normalize.weight": np.zeros((3, 3, 1, 1), np.float32)}
    return {"model": {**states["fusion"], **vgg, **deeper, **normalize}}


def test_vgg_weights_inside_the_fusion_checkpoint(states):
    checkpoint = _full_checkpoint(states)
    fusion = from_checkpoint(checkpoint)
    assert fusion.network == "fusion"
    assert len(fusion.ignored) == 22
    assert all(fusion.ignored.values())
    vgg = from_checkpoint(checkpoint, "vgg16")
    assert vgg.parameter_count == PARAMETERS["vgg16"]
    assert len(vgg.ignored) == 435 + 2
    expected = states["vgg16"]["features.21.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(vgg.arrays["params/conv9/kernel"], expected)


def test_a_damaged_fusion_checkpoint_is_not_taken_for_vgg(states):
    checkpoint = _full_checkpoint(states)
    del checkpoint["model"]["fuser.emb1.bias"]
    with pytest.raises(MismatchError, match=r"fusion network: missing \(1\): fuser\.emb1\.bias;"):
        from_checkpoint(checkpoint)


def test_torchvision_vgg16(states):
    extra = {"features.28.bias": np.zeros(512, np.float32), "classifier.6.bias": np.zeros(1000, np.float32)}
    converted = from_checkpoint(states["vgg16"] | extra)
    assert converted.network == "vgg16"
    assert set(converted.ignored) == set(extra)


def test_shared_module_saved_under_two_prefixes(states):
    twice = states["fusion"] | {f"content.{key}": array.copy() for key, array in states["fusion"].items()}
    converted = from_checkpoint(twice)
    assert len(converted.ignored) == 435
    assert converted.ignored["content.fuser.emb1.bias"] == "second copy of fuser.emb1.bias"
    twice["content.fuser.emb1.bias"] += 1
    with pytest.raises(MismatchError, match=r"given twice \(1\): content\.fuser\.emb1\.bias"):
        from_checkpoint(twice)


def _esrgan_name(key):
    key = re.sub(r"^body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB", key)
    key = re.sub(r"^conv_up", "upconv", key)
    return re.sub("^conv_hr", "HRconv", re.sub("^conv_body", "trunk_conv", key))


def _first_esrgan_name(key):
    key = re.sub(r"^body\.(\d+)\.rdb(\d)\.conv(\d)\.", r"model.1.sub.\1.RDB\2.conv\3.0.", key)
    names = {
        "conv_first": "model.0",
        "conv_body": "model.1.sub.6",
        "conv_up1": "model.3",
        "conv_up2": "model.6",
    }
    names |= {"conv_hr": "model.8", "conv_last": "model.10"}
    first, last = key.rsplit(".", 1)
    return f"{names.get(first, first)}.{last}"


@pytest.mark.parametrize("rename", [str, _esrgan_name, _first_esrgan_name])
def test_rrdb_under_its_three_names(rename):
    state = _state("rrdb", num_blocks=6)
    converted = from_checkpoint(
        {"params_ema": {rename(key): array for key, array in state.items()}, "params": {"a": 1}}
    )
    assert converted.network == "rrdb"
    assert converted.options == {"num_blocks": 6}
    assert set(converted.ignored) == {"params"}
    back = to_state_dict("rrdb", converted.arrays)
    assert list(back) == list(state)
    assert all(np.array_equal(back[key], state[key]) for key in state)


def test_rrdb_with_a_block_missing_is_not_a_smaller_network():
    state = {
        key: np.zeros(leaf.torch_shape, np.float16)
        for key, leaf in ((x.torch_key, x) for x in leaves("rrdb"))
    }
    state = {key: array for key, array in state.items() if not key.startswith("body.22.")}
    with pytest.raises(MismatchError, match=r"missing \(30\): body\.22\.\* \(30\);"):
        from_checkpoint(state)


@pytest.mark.parametrize("scale", SR_SCALES)
def test_sr_scale_is_recognised(scale):
    converted = from_checkpoint(_state("sr", scale=scale))
    assert converted.options == {"scale": scale}
    assert from_leaves(converted.arrays).options == {"scale": scale}


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(states, dtype):
    state = {key: array.astype(dtype) for key, array in states["sr"].items()}
    converted = from_checkpoint(state)
    expected = state["head.0.bias"].astype(np.float32)
    np.testing.assert_array_equal(converted.arrays["params/head/bias"], expected)
    assert converted.dtypes == {np.dtype(dtype).name: 124}


# Mismatches


def test_all_mismatches_in_one_error(states):
    state = dict(states["fusion"])
    del state["fuser.emb1.bias"], state["fuser.dec.2.weight"]
    state = {key: array for key, array in state.items() if not key.startswith("fuser.blk3.Local.")}
    state["stray.one"] = state["stray.two"] = np.zeros(3, np.float32)
    state["fuser.dec.0.weight"] = np.zeros((16, 32, 3, 2), np.float32)
    state["fuser.emb2.bias"] = np.zeros(64, np.int64)
    state["fuser.emb3.bias"] = "text"
    state["fuser.emb4.bias"] = np.full(128, np.nan, np.float32)
    state["fuser.emb4.weight"] = np.full((128, 96, 3, 3), 1e200)  # infinite in float32
    count = "fuser.blk1.Local.g.bn.num_batches_tracked"
    state[count] = np.array(2**40)
    with pytest.raises(MismatchError) as caught:
        from_state_dict(state, source="weights.pth")
    problems = caught.value.problems
    assert len(problems["missing"]) == 2 + 27
    assert problems["not expected"] == ["stray.one", "stray.two"]
    assert problems["wrong shape"] == ["fuser.dec.0.weight is (16, 32, 3, 2) instead of (16, 32, 3, 3)"]
    assert [line.split()[0] for line in problems["wrong type"]] == [
        count,
        "fuser.emb2.bias",
        "fuser.emb3.bias",
    ]
    assert [line.split()[0] for line in problems["not finite"]] == ["fuser.emb4.weight", "fuser.emb4.bias"]
    message = str(caught.value)
    assert message.startswith("weights.pth: ")
    assert "\n" not in message
    assert "fuser.blk3.Local.* (27)" in message
    for key in (
        "fuser.emb1.bias",
        "fuser.dec.2.weight",
        "stray.* (2)",
        count,
        "fuser.emb4.bias has 128 NaN or Inf",
    ):
        assert key in message


def test_mismatches_of_variables(states):
    arrays = dict(from_state_dict(states["sr"]).arrays)
    del arrays["params/head/bias"]
    arrays["params/tail/bias"] = np.zeros(1, np.float32)
    arrays["params/refine_0/kernel"] = np.zeros((3, 3, 32, 3), np.float32)
    arrays["params/refine_2/bias"] = np.array([np.inf, 0, 0], np.float32)
    for convert in (lambda: from_leaves(arrays), lambda: to_state_dict("sr", arrays)):
        with pytest.raises(MismatchError) as caught:
            convert()
        assert {kind: len(keys) for kind, keys in caught.value.problems.items()} == {
            "missing": 1, "not expected": 1, "wrong shape": 1, "not finite": 1
        }  # fmt: skip


def test_a_file_of_another_network(states):
    with pytest.raises(CheckpointError, match="holds the sr network, not the fusion network"):
        from_checkpoint(states["sr"], "fusion")
    with pytest.raises(CheckpointError, match="there is no network 'unet'"):
        from_checkpoint(states["sr"], "unet")
    with pytest.raises(CheckpointError, match="not the weights of a network of this package"):
        from_checkpoint({"layer.weight": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match="not the weights of the vgg16 network"):
        from_checkpoint({"layer.weight": np.zeros(3, np.float32)}, "vgg16")


@pytest.mark.parametrize(
    "value", [{}, [], 3, None, {"model": {}}, {"epoch": 3}, {"model": {"model": {"model": {}}}}]
)
def test_no_state_dict(value):
    with pytest.raises(CheckpointError, match="holds no state dict"):
        from_checkpoint(value, source="x.pth")


def test_names_from_a_file_are_printed_safely(states):
    state = states["sr"] | {"\x1b[31mred\n" + "x" * 500: np.zeros(1, np.float32)}
    with pytest.raises(MismatchError) as caught:
        from_checkpoint(state)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_summarise():
    listing = ["a.x.1", "a.x.2", "a.y", "b"]
    assert summarise(["a.x.1", "a.x.2", "b"], listing) == ["a.x.* (2)", "b"]
    assert summarise(["a.x.1"], listing) == ["a.x.1"]
    assert summarise(["a.x.1", "a.x.2", "a.y"], listing) == ["a.* (3)"]


def test_flatten_and_unflatten():
    nested = {"params": {"a": {"kernel": 1}, "b": {"bias": 2}}, "batch_stats": {"a": {"mean": 3}}}
    flat = flatten(nested)
    assert flat == {"params/a/kernel": 1, "params/b/bias": 2, "batch_stats/a/mean": 3}
    assert unflatten(flat) == nested


def test_writer_refuses_what_torch_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="complex64"):
        write_pth(tmp_path / "x.pth", {"w": np.zeros(1, np.complex64)})
    assert list(tmp_path.iterdir()) == []
