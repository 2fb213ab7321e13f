"""`esr-lefuse reproduce-tables`: the published tables beside your own figures."""

import argparse
import sys
from pathlib import Path

from esr_lefuse_jax.errors import ConfigError, OutputError

_EPILOG = """\
example:
  esr-lefuse reproduce-tables --llvip LLVIP --m3fd M3FD --out_dir outputs/tables \\
      --fusion_ckpt L2025.pth --sr_ckpt sr_unet_aug_enhanced.pth

LLVIP and M3FD are read as downloaded (infrared/test and visible/test; Ir and Vis); a folder with ir/ and vi/
will do.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `esr-lefuse reproduce-tables`."""
    parser.epilog = _EPILOG
    parser.add_argument("--llvip", metavar="DIR", help="LLVIP; its test split is measured")
    parser.add_argument("--m3fd", metavar="DIR", help="M3FD; the first --batches pairs are measured")
    parser.add_argument("--fusion_ckpt", metavar="FILE", help="fusion weights (default: the package's own)")
    parser.add_argument("--sr_ckpt", metavar="FILE", help="super-resolution weights (likewise)")
    parser.add_argument(
        "--out_dir", metavar="DIR", required=True, help="receives tables.md, results and rows"
    )
    parser.add_argument(
        "--batches", type=int, default=30, help="of M3FD, as published (default: %(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=1, help="pairs in a batch of M3FD")
    parser.add_argument("--limit", type=int, default=0, help="of LLVIP, the first N pairs (default: all)")
    parser.add_argument("--ensemble", default="none", choices=("none", "x4", "x8", "reference"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--fusion_only", action="store_true", help="only the fusion tables")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")


def run(args: argparse.Namespace) -> int:
    """Prints the tables; 1 when a pair could not be read, 0 otherwise."""
    if not (args.llvip or args.m3fd):
        raise ConfigError("nothing to run on: give --llvip DIR, --m3fd DIR or both")
    for flag in ("batches", "batch_size"):
        if getattr(args, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(args, flag)}: must be at least 1")
    from esr_lefuse_jax.atomic import write_bytes
    from esr_lefuse_jax.evaluation import provenance, reproduce

    sets = []
    for name, title, root, count in (
        ("llvip", "LLVIP", args.llvip, args.limit or None),
        ("m3fd", "M3FD", args.m3fd, args.batches * args.batch_size),
    ):
        if root:
            pairs, problems = reproduce.pairs_of(root)
            for problem in problems:
                print(f"note: {problem}", file=sys.stderr)
            sets.append((name, f"{title}: {len(pairs[:count])} of {len(pairs)} pairs", pairs[:count]))
    out_dir = Path(args.out_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out_dir}: cannot be created: {error.strerror or error}") from error

    # Only now: folders that cannot be used are refused without waiting for jax.
    from esr_lefuse_jax.images import read_header
    from esr_lefuse_jax.inference import compilation_cache
    from esr_lefuse_jax.inference.pipeline import Pipeline, load_variables

    compilation_cache.enable()
    weights = load_variables(args.fusion_ckpt, args.sr_ckpt, fusion_only=args.fusion_only)
    pipeline = Pipeline(weights.fusion, weights.sr, ensemble=args.ensemble, dtype=args.dtype)
    headers = [read_header(pair.visible) for _, _, pairs in sets for pair in pairs]
    pipeline.prepare_for({(header.height, header.width) for header in headers})
    settings = {**weights.hashes, "ensemble": args.ensemble, "dtype": args.dtype}
    texts: list[str] = []
    failed: list[str] = []
    for name, title, pairs in sets:
        record = provenance.record({"pairs": len(pairs), "folder": getattr(args, name)}, weights.hashes)
        results = reproduce.run(
            pairs,
            pipeline,
            out_dir / f"{name}.rows.jsonl",
            settings,
            enlarge=not args.fusion_only,
            resume=args.resume,
            record=record,
        )
        failed += results.problems
        results.save(out_dir / f"{name}.json")
        texts.append(reproduce.table(name, title, results))
        print("\n" + texts[-1])
    notes = [f"- {note}" for note in weights.notes]
    notes.append("- psnr and ssim vs bicubic measure closeness to bicubic enlargement, not quality")
    notes.append("- the published AG follows no published code; forward differences without 1/2 come nearest")
    text = "\n".join([*texts, *notes]) + "\n"
    print("\n".join(notes))
    write_bytes(out_dir / "tables.md", text.encode())
    for problem in failed:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if failed else 0
