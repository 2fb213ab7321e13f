"""Trains the weights that come with the package: `python recipes/train_open.py --config=... --workdir=...`.

Takes the flags of `launch/train.py`; `--config.data.train` names the M3SVD folder (`ir/`, `vi/`). The loop, the
objectives and the options are the package's own, only the windows are those of this folder. When the fusion network is
trained, match its contrast to the targets', or set slope and offset by hand:

    python recipes/train_open.py contrast M3SVD RUN/best.safetensors FUSION.safetensors
    python recipes/train_open.py contrast M3SVD RUN/best.safetensors FUSION.safetensors 1.25 0.05
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from fusion_open_contrast import choose, widen
from fusion_open_data import HELD_OUT, FusionData, pictures
from ml_collections import ConfigDict
from sr_open_data import SuperResolutionData

from esr_lefuse_jax import weights
from esr_lefuse_jax.commands import train
from esr_lefuse_jax.training import inputs


@contextlib.contextmanager
def open_windows(config: ConfigDict) -> Iterator[FusionData | SuperResolutionData]:
    """The data of a run, in place of `inputs.open_data`."""
    yield FusionData(config) if config.stage == "fusion" else SuperResolutionData(config)


def set_contrast(source: Path, path: Path, slope: float, offset: float) -> None:
    """Writes fusion weights whose last convolution is widened."""
    variables = weights.load_weights(source, "fusion").variables
    weights.save_safetensors(path, "fusion", widen(variables, slope, offset), {})


def match_contrast(m3svd: str, source: Path, path: Path) -> None:
    """Writes fusion weights with the contrast of the targets, matched on a frame of each clip and on darkened ones."""
    found = pictures(Path(m3svd))
    chosen = [
        picture
        for kind, ending in (("exposed", "_0004_0"), ("darkened", "_0004_1"))
        for name, picture in found[kind].items()
        if name.endswith(ending) and HELD_OUT not in name
    ]
    slope, offset = choose(weights.load_weights(source, "fusion").variables, chosen)
    print(f"slope {slope:.2f}, offset {offset:.2f}")
    set_contrast(source, path, slope, offset)


def main(arguments: list[str]) -> int:
    """Matches contrast, or trains."""
    if arguments[:1] == ["contrast"]:
        source, path = map(Path, arguments[2:4])
        if len(arguments) > 4:
            set_contrast(source, path, float(arguments[4]), float(arguments[5]))
        else:
            match_contrast(arguments[1], source, path)
        return 0
    inputs.open_data = open_windows
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
