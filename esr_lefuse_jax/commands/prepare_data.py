"""`esr-lefuse prepare-data`: folders of pairs to a TFDS set, or rendered pairs to folders."""

import argparse
import re
import sys
from pathlib import Path

from esr_lefuse_jax.errors import ConfigError, OutputError, PairError
from esr_lefuse_jax.images import parse_ir_range, write_image
from esr_lefuse_jax.layouts import Layout, find_layouts

_SHOWN = 20  # problems printed one by one; the rest is counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    inputs = parser.add_argument_group("input: a data set as downloaded, two folders, or rendered pairs")
    inputs.add_argument(
        "--root",
        type=Path,
        help="folder of a data set: LLVIP, M3FD, MSRS as downloaded, or any with\n"
        "folders like ir/ and vi/; its train and test folders become splits",
    )
    inputs.add_argument("--ir_dir", type=Path, help="folder of infrared images")
    inputs.add_argument("--vis_dir", type=Path, help="folder of visible images; pairs have equal stems")
    inputs.add_argument(
        "--rendered", type=int, metavar="N", help="render N night pairs with their well-lit truth instead"
    )
    inputs.add_argument(
        "--size", default="320x256", help="of rendered pairs, WIDTHxHEIGHT (default %(default)s)"
    )
    inputs.add_argument(
        "--seed", type=int, default=0, help="of the first rendered pair (default %(default)s)"
    )
    inputs.add_argument(
        "--noise",
        type=float,
        help="of the visible sensor in rendered pairs: 1 is the raw signal of a small one,\n"
        "0 is none (default: what a camera's own pictures show)",
    )
    inputs.add_argument(
        "--ir_range",
        default="auto",
        help="which raw values of infrared with more than 8 bits are black and white:\n"
        "auto (each picture's own range), full, or LOW,HIGH",
    )
    parser.add_argument(
        "--name",
        default="fusion_pairs",
        choices=("fusion_pairs", "llvip", "m3fd"),
        help="name of the set (default %(default)s)",
    )
    parser.add_argument(
        "--out_dir",
        type=Path,
        required=True,
        help="the set goes to OUT_DIR/NAME/VERSION as array_record files;\n"
        "rendered pairs go to OUT_DIR/{ir,vi,clean}",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command: 0 when every pair was taken, 1 when some could not be."""
    given = [
        args.root is not None,
        args.ir_dir is not None or args.vis_dir is not None,
        args.rendered is not None,
    ]
    if sum(given) != 1 or (args.ir_dir is None) != (args.vis_dir is None):
        raise ConfigError("give either --root, or --ir_dir and --vis_dir, or --rendered")
    if args.rendered is not None:
        return _render(args)
    ir_range = parse_ir_range(args.ir_range)
    layouts = find_layouts(args.root) if args.root else [Layout("", args.ir_dir, args.vis_dir)]

    # Only now: TFDS takes a second to import, refusals need not wait for it.
    import tqdm

    from esr_lefuse_jax.data.tfds_builders import PAIR_BUILDERS, PairExamples, write_set

    problems: list[str] = []
    with tqdm.tqdm(unit="pair", dynamic_ncols=True) as bar:
        examples = PairExamples(layouts, ir_range, lambda pair: bar.update(), problems.append)
        bar.reset(examples.count)
        if not examples.count:
            where = args.root or f"{args.ir_dir} and {args.vis_dir}"
            raise PairError(f"no pair found in {where}{'; ' + problems[0] if problems else ''}")
        folder = write_set(
            PAIR_BUILDERS[args.name],
            examples.splits,
            args.out_dir,
            infrared_channels=examples.infrared_channels,
        )
        written = bar.n
    for problem in problems[:_SHOWN]:
        print(f"left out: {problem}", file=sys.stderr)
    if len(problems) > _SHOWN:
        print(f"left out: {len(problems) - _SHOWN} more", file=sys.stderr)
    splits = ", ".join(examples.splits)
    print(f"{written} pairs in {folder} ({splits}); train with --config.data.train={folder}")
    return 1 if problems else 0


def _render(args: argparse.Namespace) -> int:
    import tqdm

    from esr_lefuse_jax.synthetic import render_night_pair

    match = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if not match or min(int(match[1]), int(match[2])) < 16:
        raise ConfigError(f"--size {args.size!r}: give WIDTHxHEIGHT such as 320x256, at least 16x16")
    if args.rendered < 1:
        raise ConfigError(f"--rendered {args.rendered}: must be at least 1")
    if args.noise is not None and not 0 <= args.noise < float("inf"):
        raise ConfigError(f"--noise {args.noise}: must be 0 or more")
    noise = {} if args.noise is None else {"noise": args.noise}
    width, height = int(match[1]), int(match[2])
    found = 0
    try:
        for name in ("ir", "vi", "clean"):
            (args.out_dir / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{args.out_dir}: cannot be made: {error.strerror}") from error
    for seed in tqdm.trange(args.seed, args.seed + args.rendered, unit="pair", dynamic_ncols=True):
        names = [args.out_dir / kind / f"night_{seed:05d}.png" for kind in ("vi", "ir", "clean")]
        if all(path.is_file() for path in names):
            found += 1
            continue
        for path, picture in zip(names, render_night_pair(height, width, seed, **noise), strict=True):
            write_image(path, picture)
    kept = f" ({found} were there before and stay as they were)" if found else ""
    print(f"{args.rendered} pairs in {args.out_dir}{kept}; train with --config.data.train={args.out_dir}")
    return 0
