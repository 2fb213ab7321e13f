"""The networks against a second statement in PyTorch, in float64 where nothing hides behind rounding."""

import functools

import formula
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from networks import nchw, nhwc

from esr_lefuse_jax.inference import fast_fusion, fast_sr
from esr_lefuse_jax.models.fusion import FusionUNet
from esr_lefuse_jax.models.sr import ESRUNet

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test EXTRAS=torch")
torch_reference = pytest.importorskip("torch_reference")

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def torch_networks():
    found = {"fusion": torch_reference.FusionNet(), "sr": torch_reference.SRNet()}
    for name, module in found.items():
        state = {key: torch.from_numpy(np.array(value)) for key, value in formula.state_dict(name).items()}
        module.load_state_dict(state)
        module.double().eval()
    return found


def _torch(module, *arrays):
    with torch.no_grad():
        return nhwc(module(*(torch.from_numpy(nchw(a).astype(np.float64)) for a in arrays)).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("size", [(13, 9), (1, 1)], ids=str)
def test_fusion_in_float64(torch_networks, size):
    rng = np.random.default_rng(size[0] * 100 + size[1])
    y, infrared = rng.random((2, 1, *size, 1))
    expected = _torch(torch_networks["fusion"], y, infrared)
    canvas = tuple(-(-s // 8) * 8 for s in size)
    with jax.enable_x64(True):
        module = jax.jit(FusionUNet(dtype=jnp.float64).apply)(networks.variables("fusion"), y, infrared)
        np.testing.assert_allclose(module, expected, atol=1e-9, rtol=0)
        whole = jax.jit(fast_fusion.fuse_whole)(
            fast_fusion.prepare(networks.variables("fusion"), np.float64),
            networks.padded(y, *canvas),
            networks.padded(infrared, *canvas),
            *networks.sizes(1, *size),
        )
        np.testing.assert_allclose(whole[:, : size[0], : size[1]], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [(5, 3), (1, 1)], ids=str)
def test_enlargement_in_float64(torch_networks, size):
    x = np.random.default_rng(size[0] * 100 + size[1]).random((1, *size, 3))
    expected = _torch(torch_networks["sr"], x)
    with jax.enable_x64(True):
        module = jax.jit(ESRUNet(dtype=jnp.float64).apply)(networks.variables("sr"), x)
        np.testing.assert_allclose(module, expected, atol=1e-9, rtol=0)
        whole = jax.jit(functools.partial(fast_sr.enlarge_whole, scale=4))(
            fast_sr.prepare(networks.variables("sr"), np.float64),
            networks.padded(x, size[0] + 2, size[1] + 1),
            *networks.sizes(1, *size),
        )
        np.testing.assert_allclose(whole[:, : 4 * size[0], : 4 * size[1]], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [2, 3])
def test_other_scales(scale):
    module = torch_reference.SRNet(scale).double().eval()
    state = {key: formula.weight(key, tuple(value.shape)) for key, value in module.state_dict().items()}
    module.load_state_dict({key: torch.from_numpy(value).double() for key, value in state.items()})
    from weights_conversion.convert import from_state_dict, unflatten

    variables = unflatten(from_state_dict(state, "sr").arrays)
    x = np.random.default_rng(scale).random((1, 6, 5, 3))
    expected = _torch(module, x)
    with jax.enable_x64(True):
        out = jax.jit(ESRUNet(scale=scale, dtype=jnp.float64).apply)(variables, x)
        np.testing.assert_allclose(out, expected, atol=1e-9, rtol=0)
        assert fast_sr.scale_of(variables) == scale
        whole = jax.jit(functools.partial(fast_sr.enlarge_whole, scale=scale))(
            fast_sr.prepare(variables, np.float64), x, *networks.sizes(1, 6, 5)
        )
        np.testing.assert_allclose(whole, expected, atol=1e-9, rtol=0)
