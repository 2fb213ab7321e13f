"""`esr-lefuse demo`: the main job on a night scene that the package renders itself."""

import argparse
import sys
import time
from pathlib import Path

from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.images import write_image
from esr_lefuse_jax.weights_shipped import is_shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("--out_dir", type=Path, default=Path("outputs/demo"), help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=0, help="another street (default %(default)s)")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--fusion_ckpt", help="fusion weights (default: the package's own)")
    parser.add_argument("--sr_ckpt", help="super-resolution weights (default: the package's own)")


def run(args: argparse.Namespace) -> int:
    """Renders, fuses, enlarges, and leaves a sheet to look at."""
    from esr_lefuse_jax.inference import compilation_cache
    from esr_lefuse_jax.inference.pipeline import Pipeline, load_variables
    from esr_lefuse_jax.sheet import overview
    from esr_lefuse_jax.synthetic import render_night_pair

    for side in ("height", "width"):
        if not 64 <= getattr(args, side) <= 2048:
            raise ConfigError(f"--{side} {getattr(args, side)}: must be from 64 to 2048")
    compilation_cache.enable()
    print(f"rendering a night street, {args.width}x{args.height} ...", flush=True)
    pair = render_night_pair(args.height, args.width, args.seed)

    untrained = not (args.fusion_ckpt or is_shipped("fusion")) or not (args.sr_ckpt or is_shipped("sr"))
    if untrained:
        print(
            "WARNING: this version ships no trained weights: the networks run UNTRAINED, the picture shows that "
            "everything works and nothing else",
            file=sys.stderr,
        )
        pipeline = Pipeline(*_untrained())
    else:
        weights = load_variables(args.fusion_ckpt, args.sr_ckpt)
        print("\n".join(weights.notes))
        pipeline = Pipeline(weights.fusion, weights.sr)

    print("fusing and enlarging (the first run compiles) ...", flush=True)
    started = time.monotonic()
    result = pipeline(pair.visible, pair.infrared)
    assert result.hr is not None
    seconds = time.monotonic() - started

    label = "UNTRAINED WEIGHTS - " if untrained else ""
    height, width = result.hr.shape[:2]
    sheet = overview(
        [
            (f"visible {args.width}x{args.height}", pair.visible),
            (f"infrared {args.width}x{args.height}", pair.infrared),
            (f"{label}fused {args.width}x{args.height}", result.fused),
        ],
        (f"{label}fused and enlarged {pipeline.scale} times, {width}x{height}", result.hr),
        f"{label}esr_lefuse_jax: a rendered night scene, seed {args.seed}",
    )
    pictures = {
        "visible.png": pair.visible,
        "infrared.png": pair.infrared,
        "fused.png": result.fused,
        f"fused_{pipeline.scale}x.png": result.hr,
        "sheet.png": sheet,
    }
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for name, image in pictures.items():
        write_image(args.out_dir / name, image)
    print(f"done in {seconds:.1f} s; look at {args.out_dir / 'sheet.png'}")
    return 0


def _untrained():
    """Variables as training would start from: noise for the fusion, bicubic for the enlargement."""
    import jax.numpy as jnp

    from esr_lefuse_jax.models.fusion import FusionUNet
    from esr_lefuse_jax.models.sr import ESRUNet
    from esr_lefuse_jax.training.state import bicubic_start, initial_variables

    gray, rgb = jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 16, 16, 3))
    fusion = initial_variables(FusionUNet(), (gray, gray), seed=0)
    sr = initial_variables(ESRUNet(), (rgb,), seed=0)
    return fusion, {"params": bicubic_start(sr["params"])}
