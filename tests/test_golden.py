"""The networks against the numbers of the original PyTorch models, with formula weights."""

import formula
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from networks import assert_parity, image, nhwc

from esr_lefuse_jax.color import rgb_to_ycrcb
from esr_lefuse_jax.inference import strips
from esr_lefuse_jax.inference.pipeline import Pipeline
from esr_lefuse_jax.models.fusion import FusionUNet
from esr_lefuse_jax.models.sr import ESRUNet
from weights_conversion.convert import flatten
from weights_conversion.torch_names import leaves

FUSION_SIZES = ((64, 80), (61, 75), (32, 200))
SR_SIZES = ((24, 32), (17, 23))


def _fusion_case(golden, height, width):
    expected = nhwc(golden[f"fusion/{height}x{width}/out"])
    shape = (len(expected), 1, height, width)
    return image(f"vi{height}x{width}", shape), image(f"ir{height}x{width}", shape), expected


def _sr_case(golden, height, width):
    expected = nhwc(golden[f"esr/{height}x{width}/out"])
    return image(f"rgb{height}x{width}", (len(expected), 3, height, width)), expected


@pytest.mark.parametrize("size", FUSION_SIZES, ids=str)
def test_fusion_module(golden, size):
    y, infrared, expected = _fusion_case(golden, *size)
    assert_parity(networks.fusion_module(networks.variables("fusion"), y, infrared), expected)


@pytest.mark.parametrize("size", SR_SIZES, ids=str)
def test_sr_module(golden, size):
    x, expected = _sr_case(golden, *size)
    assert_parity(networks.sr_module(networks.variables("sr"), x), expected)


def test_intermediate_maps(golden):
    y, infrared, _ = _fusion_case(golden, 61, 75)
    _, state = FusionUNet().apply(
        networks.variables("fusion"),
        y,
        infrared,
        capture_intermediates=lambda m, _: m.name in ("blk1", "blk4"),
    )
    maps = state["intermediates"]
    mean = np.mean(maps["blk1"]["__call__"][0], axis=(0, 1, 2))
    np.testing.assert_allclose(mean, golden["fusion/61x75/blk1_mean"], atol=5e-5)
    np.testing.assert_allclose(
        maps["blk4"]["__call__"][0][..., :8], nhwc(golden["fusion/61x75/blk4"]), atol=5e-4, rtol=1e-4
    )


@pytest.mark.parametrize("size", FUSION_SIZES, ids=str)
def test_fusion_in_strips_on_a_larger_canvas(golden, size):
    y, infrared, expected = _fusion_case(golden, *size)
    canvas = (-(-size[0] // 16) * 16, -(-size[1] // 8) * 8)
    fused = strips.fuse_strips(
        networks.prepared("fusion"),
        networks.padded(y, *canvas),
        networks.padded(infrared, *canvas),
        *networks.sizes(len(y), *size),
        16,
    )
    assert_parity(fused[:, : size[0], : size[1]], expected)


@pytest.mark.parametrize("size", SR_SIZES, ids=str)
def test_enlargement_in_strips(golden, size):
    x, expected = _sr_case(golden, *size)
    canvas = (24, 32)
    out = strips.enlarge_strips(
        networks.prepared("sr"), networks.padded(x, *canvas), *networks.sizes(len(x), *size), 4, 8
    )
    assert_parity(out[:, : 4 * size[0], : 4 * size[1]], expected)


@pytest.mark.parametrize("size", SR_SIZES, ids=str)
def test_reference_ensemble(golden, size):
    x, _ = _sr_case(golden, *size)
    pipeline = Pipeline(networks.variables("fusion"), networks.variables("sr"), ensemble="reference")
    expected = nhwc(golden[f"esr/{size[0]}x{size[1]}/ensemble_reference"])
    assert_parity(pipeline.enlarge(x), expected)


def test_whole_pipeline(golden):
    visible, infrared = image("hrgb24x40", (1, 3, 24, 40)), image("hir24x40", (1, 1, 24, 40))
    for plane, name in zip(rgb_to_ycrcb(jnp.asarray(visible)), ("y", "cr", "cb"), strict=True):
        np.testing.assert_allclose(plane, nhwc(golden[f"hybrid/24x40/{name}"]), atol=1e-6)
    pipeline = Pipeline(networks.variables("fusion"), networks.variables("sr"))
    result = pipeline(visible, infrared)
    assert_parity(result.fused, nhwc(golden["hybrid/24x40/fused_lr"]))
    assert_parity(result.hr, nhwc(golden["hybrid/24x40/out_single"]))
    reference = Pipeline(networks.variables("fusion"), networks.variables("sr"), ensemble="reference")
    assert_parity(reference(visible, infrared).hr, nhwc(golden["hybrid/24x40/out_reference"]))


def _by_torch_key(network, tree):
    arrays = flatten(tree)
    return {leaf.torch_key: np.asarray(arrays[leaf.path]) for leaf in leaves(network) if leaf.path in arrays}


@pytest.mark.slow
@pytest.mark.parametrize("network", ["fusion", "sr"])
def test_training_step(golden, network):
    """Loss, gradient norms and running statistics of one training-mode pass of mean |out - target|."""
    variables = networks.variables(network)
    stats = variables.get("batch_stats", {})
    if network == "fusion":
        y, infrared, target = (image(name, (2, 1, 32, 40)) for name in ("tvi", "tir", "ttgt"))

        def forward(params):
            return FusionUNet().apply(
                {"params": params, "batch_stats": stats}, y, infrared, train=True, mutable=["batch_stats"]
            )

    else:
        x, target = image("trgb", (2, 3, 12, 16)), image("thr", (2, 3, 48, 64))

        def forward(params):
            return ESRUNet().apply({"params": params}, x), {}

    def loss(params):
        out, state = forward(params)
        return jnp.mean(jnp.abs(out - target)), (jnp.mean(out), state)

    (value, (mean, state)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    prefix = "esr" if network == "sr" else network
    np.testing.assert_allclose(value, golden[f"{prefix}/train_loss"], rtol=1e-5)
    np.testing.assert_allclose(mean, golden[f"{prefix}/train_out_mean"], rtol=1e-5)

    norms = {
        key: np.linalg.norm(value) for key, value in _by_torch_key(network, {"params": gradients}).items()
    }
    compared = 0
    for name, expected in golden.items():
        key = name.removeprefix(f"{prefix}/grad_norm/")
        if key == name:
            continue
        # A bias right before a batch norm has no gradient; what is there is rounding noise.
        before_norm = key.endswith("conv.bias") and any(
            part in key for part in (".dwconv.", ".g.", ".aux_g.")
        )
        if not before_norm:
            np.testing.assert_allclose(norms[key], expected, rtol=1e-3, err_msg=key)
            compared += 1
    assert compared > 100
    if network == "fusion":
        buffers = _by_torch_key(network, state)
        for name, expected in golden.items():
            key = name.removeprefix("fusion/after_step_buffer_mean/")
            if key != name:
                np.testing.assert_allclose(
                    np.mean(buffers[key], dtype=np.float64), expected, rtol=1e-4, atol=1e-6, err_msg=key
                )


def test_formula_is_not_trivial():
    """The golden weights would not notice much if they were all alike."""
    state = formula.state_dict("sr")
    assert np.std([np.mean(value) for value in state.values()]) > 1e-3
