"""`esr-lefuse convert`: PyTorch `.pth` to safetensors and Orbax, and back."""

import argparse
import sys
from pathlib import Path

from esr_lefuse_jax.errors import OutputError
from esr_lefuse_jax.weights import (
    STORAGE_DTYPES,
    LoadedWeights,
    load_weights,
    save_orbax,
    save_pth,
    save_safetensors,
)
from weights_conversion.torch_names import NETWORKS

_PTH = (".pth", ".pt")
_SAFETENSORS = (".safetensors",)
_ORBAX = ("", ".orbax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples:\n"
        "  esr-lefuse convert L2025.pth fusion.safetensors\n"
        "  esr-lefuse convert sr_unet_enhanced.pth sr.safetensors --dtype bfloat16\n"
        "  esr-lefuse convert fusion.safetensors for_pytorch.pth\n"
        "  esr-lefuse convert L2025.pth vgg16.safetensors --network vgg16"
    )
    parser.add_argument(
        "input", type=Path, metavar="IN", help="a .pth, a .safetensors file or an Orbax folder"
    )
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="by its ending: .pth, .safetensors, or none for an Orbax folder",
    )
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        help="the network to take out of IN (default: recognised by its content)",
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(STORAGE_DTYPES),
        default="float32",
        help="type of kernels in a .safetensors (default: float32; halves take half the space)",
    )


def run(args: argparse.Namespace) -> int:
    """Converts one file and says what was in it."""
    suffix = args.output.suffix.lower()
    if suffix not in (*_PTH, *_SAFETENSORS, *_ORBAX):
        raise OutputError(
            f"{args.output}: unknown ending {suffix!r}; use .pth, .safetensors, or none for Orbax"
        )
    if args.dtype != "float32" and suffix not in _SAFETENSORS:
        raise OutputError(f"{args.output}: --dtype {args.dtype} is for .safetensors only; leave it out")
    loaded = load_weights(args.input, args.network)
    print(describe(loaded))
    kept = {k: v for k, v in loaded.metadata.items() if k not in ("sha256", "network", "format")}
    metadata = {"converted_from": args.input.name, **kept}
    if suffix in _PTH:
        if loaded.terms:
            print("warning: a .pth keeps no note of these terms", file=sys.stderr)
        save_pth(args.output, loaded.network, loaded.variables)
    elif suffix in _SAFETENSORS:
        save_safetensors(args.output, loaded.network, loaded.variables, metadata, args.dtype)
    else:
        save_orbax(args.output, loaded.network, loaded.variables, metadata)
    print(f"wrote {args.output}")
    return 0


def describe(loaded: LoadedWeights) -> str:
    """Several lines on what a file held: network, parameters, types, and each ignored key with its reason."""
    options = "".join(
        f", {key} {loaded.metadata[key]}" for key in ("scale", "num_blocks") if key in loaded.metadata
    )
    types = ", ".join(f"{count} {name}" for name, count in sorted(loaded.dtypes.items()))
    lines = [
        f"{loaded.path}: {loaded.network} network{options}",
        f"  parameters  {loaded.parameter_count:,}",
        f"  arrays      {types}",
        f"  sha256      {loaded.metadata['sha256']}",
    ]
    if loaded.terms:
        lines.append(f"  terms       {loaded.terms}")
    by_reason: dict[str, list[str]] = {}
    for key, reason in loaded.ignored.items():
        by_reason.setdefault(reason, []).append(key if key.isprintable() else repr(key))
    for reason, keys in by_reason.items():
        lines.append(f"  ignored     {', '.join(keys)}: {reason}")
    return "\n".join(lines)
