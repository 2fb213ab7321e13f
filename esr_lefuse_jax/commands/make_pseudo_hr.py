"""`esr-lefuse make-pseudo-hr`: LR-HR pairs for stage 2, references by the Real-ESRGAN teacher."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from esr_lefuse_jax.errors import ConfigError, PairError
from esr_lefuse_jax.images import parse_ir_range, read_infrared, read_visible
from esr_lefuse_jax.inference.memory import parse_bytes
from esr_lefuse_jax.layouts import find_layouts
from esr_lefuse_jax.pairs import Pair, find_pairs, list_images
from esr_lefuse_jax.pseudo_hr import Options, make_pseudo_hr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    inputs = parser.add_argument_group("input: a data set, two folders of pairs, or fused images")
    inputs.add_argument("--root", type=Path, help="folder of a data set; of its splits, train")
    inputs.add_argument("--ir_dir", type=Path, help="folder of infrared images")
    inputs.add_argument("--vis_dir", type=Path, help="folder of visible images; pairs have equal stems")
    inputs.add_argument("--fused_dir", type=Path, help="folder of fused images: stage 1 was done before")
    inputs.add_argument("--ir_range", default="auto", help="auto, full or LOW,HIGH, as for infer")
    weights = parser.add_argument_group("weights: .pth, .safetensors or Orbax folders")
    weights.add_argument("--fusion_ckpt", help="fusion network (default: the package's own)")
    weights.add_argument(
        "--teacher_ckpt",
        type=Path,
        help="RRDBNet x4 (default: Real-ESRGAN, imported by\n`esr-lefuse weights import realesrgan`)",
    )
    parser.add_argument("--out_dir", type=Path, required=True, help="the set goes to OUT_DIR/lr_hr_pairs")
    parser.add_argument("--count", type=int, default=1100, help="LR-HR pairs to make (default %(default)s)")
    parser.add_argument(
        "--crop",
        type=int,
        default=0,
        help="side of LR crops; 0 keeps whole frames (about 35 MB a pair at\n1280x1024 as PNG; the default)",
    )
    parser.add_argument(
        "--hr_format", default="png", choices=("png", "jpg"), help="jpg takes a fifth of the room"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--max_memory",
        help="memory for activations, such as 2G (default: by the device);\na 1280x1024 frame needs 1.9G",
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Runs the command: 0 when every image gave its pairs, 1 when some could not."""
    ir_range = parse_ir_range(args.ir_range)
    max_memory = parse_bytes(args.max_memory)
    for flag, least in (("count", 1), ("crop", 0)):
        if getattr(args, flag) < least:
            raise ConfigError(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    pairs, files, problems = _collect(args)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)

    # Only now: what can be refused without jax is refused at once.
    import tqdm

    from esr_lefuse_jax.frame_teacher import FrameTeacher
    from esr_lefuse_jax.inference import compilation_cache
    from esr_lefuse_jax.weights import load_weights, weights_hash
    from esr_lefuse_jax.weights_cache import load_cached

    compilation_cache.enable()
    loaded = load_weights(args.teacher_ckpt, "rrdb") if args.teacher_ckpt else load_cached("realesrgan")
    teacher = FrameTeacher(loaded.variables, dtype=args.dtype, max_memory=max_memory)
    identity = hashlib.sha256(f"{weights_hash(loaded.variables)} {args.dtype}".encode())
    source: _FusedFiles | _Pairs
    if files:
        source = _FusedFiles(args.fused_dir, files)
    else:
        from esr_lefuse_jax.inference.pipeline import Pipeline, load_variables

        stage_one = load_variables(args.fusion_ckpt, None, fusion_only=True)
        for note in stage_one.notes:
            print(note, file=sys.stderr)
        identity.update(stage_one.hashes["fusion"].encode())
        source = _Pairs(pairs, Pipeline(stage_one.fusion, max_memory=max_memory).fuse, ir_range)
    identity.update("\n".join(source.names).encode())
    options = Options(count=args.count, crop=args.crop, seed=args.seed, hr_format=args.hr_format)
    with tqdm.tqdm(total=args.count, unit="pair", smoothing=0.1, dynamic_ncols=True) as bar:
        summary = make_pseudo_hr(source, teacher, args.out_dir, options, identity.hexdigest(), bar.update)
    for name, reason in summary.failed:
        print(f"failed: {name}: {reason}", file=sys.stderr)
    total = summary.made + summary.found
    before = f", {summary.found} of them from before" if summary.found else ""
    print(f"{total} pairs in {summary.folder}{before}")
    print(f"train with --config.data.train=pseudo_hr:{summary.folder}")
    return 1 if problems or summary.failed else 0


class _Pairs:
    """Pairs, fused when asked for."""

    def __init__(self, pairs: Sequence[Pair], fuse, ir_range):
        self._pairs, self._fuse, self._ir_range = pairs, fuse, ir_range
        self.names = [pair.stem for pair in pairs]

    def image(self, index: int) -> np.ndarray:
        pair = self._pairs[index]
        return self._fuse(read_visible(pair.visible), read_infrared(pair.infrared, ir_range=self._ir_range))


class _FusedFiles:
    """Fused images in files."""

    def __init__(self, folder: Path, files: Sequence[Path]):
        self._files = files
        self.names = [path.relative_to(folder).as_posix() for path in files]

    def image(self, index: int) -> np.ndarray:
        return read_visible(self._files[index])


def _collect(args: argparse.Namespace) -> tuple[list[Pair], list[Path], list[str]]:
    given = [args.root is not None, bool(args.ir_dir or args.vis_dir), args.fused_dir is not None]
    if sum(given) != 1 or (args.ir_dir is None) != (args.vis_dir is None):
        raise ConfigError("give either --root, or --ir_dir and --vis_dir, or --fused_dir")
    if args.fused_dir:
        files, problems = list_images(args.fused_dir)
        if not files:
            raise PairError(f"{args.fused_dir}: holds no images")
        return [], files, problems
    folders = [(args.ir_dir, args.vis_dir)]
    if args.root:
        layouts = find_layouts(args.root)
        chosen = [layout for layout in layouts if layout.split == "train"] or layouts
        folders = [(layout.ir_dir, layout.vis_dir) for layout in chosen]
    pairs: list[Pair] = []
    problems = []
    for number, (ir_dir, vis_dir) in enumerate(folders):
        found, more = find_pairs(ir_dir, vis_dir)
        prefix = f"{number}/" if len(folders) > 1 else ""
        pairs += [Pair(prefix + pair.stem, pair.visible, pair.infrared) for pair in found]
        problems += more
    if not pairs:
        raise PairError(f"no pair of images in {args.root or args.ir_dir}")
    return pairs, [], problems
