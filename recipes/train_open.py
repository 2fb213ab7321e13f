"""Trains the weights that come with the package: `python recipes/train_open.py --config=... --workdir=...`.

Takes the flags of `launch/train.py`; `--config.data.train` names the M3SVD folder (`ir/`, `vi/`). The
loop, the objectives and the options are the package's own, only the windows are those of this folder. For the
fusion network, first write its start (pointwise fit, then the first phase with closed branches):

    python recipes/train_open.py start M3SVD START.safetensors

and, when it is trained, match its contrast to the targets':

    python recipes/train_open.py contrast M3SVD RUN/best.safetensors FUSION.safetensors
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from fusion_open_contrast import choose, widen
from fusion_open_data import HELD_OUT, FusionData, pictures
from fusion_open_start import pass_through
from fusion_open_warm_up import warm_up
from ml_collections import ConfigDict
from sr_open_data import SuperResolutionData

from esr_lefuse_jax import weights
from esr_lefuse_jax.commands import train
from esr_lefuse_jax.config import default_config
from esr_lefuse_jax.training import inputs
from esr_lefuse_jax.training.networks import starting_variables
from esr_lefuse_jax.training.stages import Stage

LOSS = {"gradient": 1.0, "ssim": 0.25, "smooth": 0.3, "infrared_share": 0.35, "perceptual": 0.0}
# Side of the windows, batch size, steps and learning rate of each leg of the first phase.
WARM_UP = ((64, 6, 80, 3e-3), (48, 4, 400, 2e-3))


@contextlib.contextmanager
def open_windows(config: ConfigDict) -> Iterator[FusionData | SuperResolutionData]:
    """The data of a run, in place of `inputs.open_data`."""
    yield FusionData(config) if config.stage == "fusion" else SuperResolutionData(config)


def write_start(m3svd: str, path: Path) -> None:
    """Writes the start of the fusion network."""
    config = default_config("fusion")
    config.seed, config.data.train, config.data.crop = 1, m3svd, 64
    variables = starting_variables(config, Stage(config))["fusion"]
    data = FusionData(config)
    # Windows that training will not reach.
    variables = pass_through(variables, data.batches(10**6), seed=0)
    config.loss.fusion.update(LOSS)
    for crop, size, steps, rate in WARM_UP:
        config.seed, config.data.crop, config.batch_size = config.seed + 1, crop, size
        variables = warm_up(variables, data.batches(0), config.loss.fusion, steps, rate)
    weights.save_safetensors(path, "fusion", variables, {})


def match_contrast(m3svd: str, source: Path, path: Path) -> None:
    """Writes fusion weights with the contrast of the targets: of one frame of each clip, and three darkened ones."""
    found = pictures(Path(m3svd))
    frames = [p for name, p in found["frame"].items() if name.endswith("_0004") and HELD_OUT not in name]
    darkened = [
        p for name, p in found["darkened"].items() if name.endswith("_0004_1") and HELD_OUT not in name
    ]
    variables = weights.load_weights(source, "fusion").variables
    slope, offset = choose(variables, frames + darkened[:3])
    print(f"slope {slope:.2f}, offset {offset:.2f}")
    weights.save_safetensors(path, "fusion", widen(variables, slope, offset), {})


def main(arguments: list[str]) -> int:
    """Runs one of the three."""
    if arguments[:1] == ["start"]:
        write_start(arguments[1], Path(arguments[2]))
        return 0
    if arguments[:1] == ["contrast"]:
        match_contrast(arguments[1], Path(arguments[2]), Path(arguments[3]))
        return 0
    inputs.open_data = open_windows
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
