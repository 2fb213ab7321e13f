"""Trains the weights that come with the package: `python recipes/train_open.py --config=... --workdir=...`.

Takes the flags of `launch/train.py`; `--config.data.train` names the M3SVD folder (`ir/`, `vi/`). The loop, the
objectives and the options are the package's own, only the windows are those of this folder. Before the last leg of
the fusion network the maximum is wired into it; what is wired stays as it is in legs that start from such weights:

    python recipes/train_open.py wire M3SVD RUN/best.safetensors WIRED.safetensors

Afterwards slope and offset (in logits) give the enhanced picture its final contrast; the last number is an offset of the
infrared:

    python recipes/train_open.py contrast RUN/checkpoints/800 FUSION.safetensors 1.45 0.02 0

Two super-resolution networks, one trained for fidelity and one from there for perception, are interpolated (Wang et al.,
"ESRGAN", ECCVW 2018), here with .75 of the second (the shipped ones are not: the model card says why):

    python recipes/train_open.py interpolate RUN1/best.safetensors RUN2/checkpoints/400 SR.safetensors 0.75

`ship fusion FUSION.safetensors open` (or `sr`, or `research`) puts weights into the package, kernels as float16.

For an ablation, `recalibration`, `global` or `local` is switched off in wired weights and stays off in a leg from them:

    python recipes/train_open.py without recalibration WIRED.safetensors START.safetensors
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fusion_open_data import HELD_OUT, FusionData, pictures
from fusion_open_merge import Entry, fixed_in, trained, wire, with_contrast, without
from ml_collections import ConfigDict
from sr_open_data import SuperResolutionData

from esr_lefuse_jax import weights, weights_shipped
from esr_lefuse_jax.commands import train
from esr_lefuse_jax.errors import ConfigError, EsrLefuseError
from esr_lefuse_jax.training import inputs, loop
from esr_lefuse_jax.training.optimizer import make_optimizer
from esr_lefuse_jax.weights_shipped import SETS

TRAINED_ON = {
    ("fusion", "open"): "M3SVD (MIT), rendered street pairs",
    ("fusion", "research"): "M3SVD (MIT), rendered street pairs, LLVIP train (non-commercial), MSRS test",
    ("sr", "open"): "M3SVD (MIT), CC0, public domain and CC BY 4.0 pictures: see LICENSE beside the file",
}


@contextlib.contextmanager
def open_windows(config: ConfigDict) -> Iterator[FusionData | SuperResolutionData]:
    """The data of a run, in place of `inputs.open_data`."""
    if config.stage == "fusion" and config.init.fusion:
        fixed = fixed_in(weights.load_weights(config.init.fusion, "fusion").variables)
        loop.make_optimizer = functools.partial(make_optimizer_of_the_rest, fixed)
    try:
        yield FusionData(config) if config.stage == "fusion" else SuperResolutionData(config)
    finally:
        loop.make_optimizer = make_optimizer


def make_optimizer_of_the_rest(
    fixed: list[Entry], config: ConfigDict, total_steps: int
) -> optax.GradientTransformation:
    """As `make_optimizer`, for all that `fusion_open_merge` does not set by hand."""

    def of_the_rest(gradients: Any, _: Any) -> Any:
        return {
            "fusion": jax.tree.map(jnp.multiply, gradients["fusion"], trained(gradients["fusion"], fixed))
        }

    return optax.chain(optax.stateless(of_the_rest), make_optimizer(config, total_steps))


def wire_file(m3svd: str, source: str, path: str) -> None:
    """Writes fusion weights into which the maximum is wired."""
    found = pictures(Path(m3svd))
    kept = [
        picture
        for of_kind in found.values()
        for name, picture in list(of_kind.items())[::8]
        if HELD_OUT not in name
    ]
    weights.save_safetensors(path, "fusion", wire(weights.load_weights(source, "fusion").variables, kept), {})


def set_contrast(source: str, path: str, *numbers: str) -> None:
    """Writes wired fusion weights of another contrast."""
    loaded = weights.load_weights(source, "fusion")
    changed = with_contrast(loaded.variables, *map(float, numbers))
    weights.save_safetensors(path, "fusion", changed, terms_of(loaded))


def interpolate(first: str, second: str, path: str, share: str) -> None:
    """Writes super-resolution weights between two networks."""
    found = [weights.load_weights(source, "sr") for source in (first, second)]
    a, b = (loaded.variables for loaded in found)
    between = jax.tree.map(
        lambda x, y: np.asarray((1 - float(share)) * x + float(share) * y, np.float32), a, b
    )
    weights.save_safetensors(path, "sr", between, terms_of(*found))


def switch_off(path: str, source: str, target: str) -> None:
    """Writes wired fusion weights without a path."""
    loaded = weights.load_weights(source, "fusion")
    weights.save_safetensors(target, "fusion", without(loaded.variables, path), terms_of(loaded))


def ship(network: str, source: str, weights_set: str) -> None:
    """Puts weights into the package, as a set's."""
    if (network, weights_set) not in TRAINED_ON:
        known = ", ".join(" ".join(pair) for pair in TRAINED_ON)
        raise ConfigError(f"{network} {weights_set}: no such weights of the package (it has {known})")
    metadata = {"set": weights_set, "trained_on": TRAINED_ON[network, weights_set]}
    if weights_set == "open":
        metadata["license"] = "MIT"
    else:
        metadata |= {"license": f"see LICENSE-{weights_set}", "terms": SETS[weights_set]}
    path = Path(weights_shipped.__file__).parent / "pretrained" / f"{network}_{weights_set}.safetensors"
    variables = weights.load_weights(source, network).variables
    print(f"{path}: {weights.save_safetensors(path, network, variables, metadata, dtype='float16')}")


def terms_of(*sources: weights.LoadedWeights) -> dict[str, str]:
    """The terms that weights made from others inherit."""
    terms = {loaded.terms: None for loaded in sources if loaded.terms}
    return {"terms": "; ".join(terms)} if terms else {}


def main(arguments: list[str]) -> int:
    """Changes weights, or trains."""
    tools: dict[str, Callable[..., None]] = {
        "wire": wire_file,
        "contrast": set_contrast,
        "interpolate": interpolate,
        "without": switch_off,
        "ship": ship,
    }
    if arguments and arguments[0] in tools:
        try:
            tools[arguments[0]](*arguments[1:])
        except EsrLefuseError as error:
            print(f"train_open: error: {error}", file=sys.stderr)
            return 1
        return 0
    inputs.open_data = open_windows
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
