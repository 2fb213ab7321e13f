"""`esr-lefuse infer`: a pair, or folders of pairs, to fused and enlarged images."""

import argparse
import sys
from pathlib import Path

from esr_lefuse_jax.errors import ConfigError, PairError
from esr_lefuse_jax.images import DEFAULT_MAX_PIXELS, parse_ir_range, read_header
from esr_lefuse_jax.inference.memory import parse_bytes
from esr_lefuse_jax.pairs import Pair, find_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    inputs = parser.add_argument_group("input: two folders, or one pair")
    inputs.add_argument("--ir_dir", type=Path, help="folder of infrared images")
    inputs.add_argument("--vis_dir", type=Path, help="folder of visible images; pairs have equal stems")
    inputs.add_argument("--ir", type=Path, help="one infrared image")
    inputs.add_argument("--vis", type=Path, help="one visible image")
    inputs.add_argument(
        "--ir_range",
        default="auto",
        help="which raw values of infrared with more than 8 bits are black and white:\n"
        "auto (each picture's own range), full, or LOW,HIGH",
    )
    inputs.add_argument(
        "--max_pixels",
        type=int,
        default=DEFAULT_MAX_PIXELS,
        help="refuse larger images (default %(default)s)",
    )

    networks = parser.add_argument_group(
        "weights: .pth, .safetensors or Orbax folders; the package's own by default",
        "The package has `open`, free for any use, and `research`, a fusion network for non-commercial research\n"
        "that keeps more of both cameras at night (--fusion_ckpt research).",
    )
    networks.add_argument("--fusion_ckpt", help="fusion network")
    networks.add_argument("--sr_ckpt", help="super-resolution network")
    networks.add_argument(
        "--fusion_only", action="store_true", help="no super-resolution: write the fused images"
    )
    networks.add_argument("--scale", type=int, choices=(2, 3, 4), help="refuse weights for another scale")
    networks.add_argument(
        "--ensemble",
        default="none",
        choices=("none", "x4", "x8", "reference"),
        help="self-ensemble of the super-resolution: the mean over 4 or 8 orientations;\n"
        "reference repeats the original's sum of 4 / 5, which is 20 %% too dark",
    )
    networks.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))

    outputs = parser.add_argument_group("output")
    outputs.add_argument("--out_dir", type=Path, required=True, help="folder for the results, STEM.png")
    outputs.add_argument(
        "--save_lr",
        nargs="?",
        const="",
        metavar="DIR",
        help="also write the fused images before enlargement (default folder: OUT_DIR_lr)",
    )
    outputs.add_argument("--gray", action="store_true", help="fused luminance without colour, one channel")
    outputs.add_argument("--format", default="png", choices=("png", "jpg", "tif"))
    outputs.add_argument("--truncate", action="store_true", help="round down to 8 bits as the original does")
    outputs.add_argument("--resume", action="store_true", help="leave out pairs that are finished")

    machine = parser.add_argument_group("machine")
    machine.add_argument("--max_memory", help="memory for activations, such as 2G (default: by the device)")
    machine.add_argument(
        "--batch_size", type=int, help="pairs of one size that run together (default: by the device)"
    )
    machine.add_argument(
        "--num_devices", type=int, help="devices that share the folder (default: all accelerators)"
    )
    machine.add_argument("--num_processes", type=int, default=None, help="hosts that split the folder")
    machine.add_argument("--process_id", type=int, default=None, help="which of them this is, from 0")


def run(args: argparse.Namespace) -> int:
    """Runs the command: 0 when every pair was written, 1 when some could not be."""
    max_memory, ir_range = parse_bytes(args.max_memory), parse_ir_range(args.ir_range)
    for flag in ("batch_size", "num_devices", "num_processes", "max_pixels"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(args, flag)}: must be at least 1")
    pairs, problems = _collect(args)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    total = len(pairs)
    if not total:
        raise PairError(
            f"no pair of images to fuse in {args.ir_dir or args.ir} and {args.vis_dir or args.vis}"
        )

    # Only now: what can be refused without jax is refused at once.
    import jax
    import tqdm

    from esr_lefuse_jax.inference import compilation_cache
    from esr_lefuse_jax.inference.folder import FolderOptions, run_folder
    from esr_lefuse_jax.inference.pipeline import Pipeline, load_variables

    compilation_cache.enable()
    process, processes = _share(args, jax)
    pairs = pairs[process::processes]
    weights = load_variables(args.fusion_ckpt, args.sr_ckpt, scale=args.scale, fusion_only=args.fusion_only)
    for note in weights.notes:
        print(note, file=sys.stderr)
    pipelines = [
        Pipeline(
            weights.fusion,
            weights.sr,
            ensemble=args.ensemble,
            dtype=args.dtype,
            gray=args.gray,
            max_memory=max_memory,
            device=device,
        )
        for device in _devices(args, jax)
    ]
    lr_dir = None
    if args.save_lr is not None and not args.fusion_only:
        lr_dir = Path(args.save_lr) if args.save_lr else args.out_dir.with_name(args.out_dir.name + "_lr")
    options = FolderOptions(
        out_dir=args.out_dir,
        lr_dir=lr_dir,
        suffix=f".{args.format}",
        truncate=args.truncate,
        gray=args.gray,
        resume=args.resume,
        batch_size=args.batch_size,
        ir_range=ir_range,
        max_pixels=args.max_pixels,
    )
    settings = {**weights.hashes, "ensemble": args.ensemble, "dtype": args.dtype, "ir_range": args.ir_range}
    with tqdm.tqdm(total=len(pairs), unit="pair", smoothing=0.1, dynamic_ncols=True) as bar:
        summary = run_folder(pipelines, pairs, options, settings, bar.update)
    for stem, reason in summary.failed:
        print(f"failed: {stem}: {reason}", file=sys.stderr)
    resumed = f", {len(summary.skipped)} were there already" if summary.skipped else ""
    rate = f" ({summary.seconds / len(summary.done):.2f} s a pair)" if summary.done else ""
    print(
        f"{len(summary.done)} of {len(pairs)} pairs written to {args.out_dir} in {summary.seconds:.1f} s{rate}{resumed}, "
        f"{len(summary.failed)} failed, {len(problems)} left out"
    )
    return 1 if summary.failed or problems else 0


def _collect(args: argparse.Namespace) -> tuple[list[Pair], list[str]]:
    folders, files = (args.ir_dir, args.vis_dir), (args.ir, args.vis)
    if (
        (None in folders) == (None in files)
        or (None in folders and any(folders))
        or (None in files and any(files))
    ):
        raise ConfigError("give either --ir_dir and --vis_dir, or --ir and --vis")
    if None not in folders:
        return find_pairs(args.ir_dir, args.vis_dir, max_pixels=args.max_pixels)
    for path in files:
        read_header(path, max_pixels=args.max_pixels)
    return [Pair(args.vis.stem, args.vis, args.ir)], []


def _share(args: argparse.Namespace, jax) -> tuple[int, int]:
    """Which part of the pairs is this process's."""
    if (args.num_processes is None) != (args.process_id is None):
        raise ConfigError("give --num_processes and --process_id together")
    if args.num_processes is None:
        return jax.process_index(), jax.process_count()
    if not 0 <= args.process_id < args.num_processes:
        raise ConfigError(f"--process_id {args.process_id}: must be from 0 to {args.num_processes - 1}")
    return args.process_id, args.num_processes


def _devices(args: argparse.Namespace, jax) -> list:
    devices = jax.local_devices()
    if args.num_devices is None:
        # The virtual devices of one CPU share its cores: one of them is as fast as all.
        return devices[:1] if devices[0].platform == "cpu" else devices
    if args.num_devices > len(devices):
        raise ConfigError(f"--num_devices {args.num_devices}: this machine has {len(devices)}")
    return devices[: args.num_devices]
