"""Measures the weights that come with the package, as in their model card: `python recipes/measure_open.py DATA OUT`.

DATA holds `llvip/train`, `llvip/test`, `m3fd`, `m3svd` and `video`, each with `ir/` and `vi/`, the last with `.mp4`
files, and `llvip/original_fused_lr` with the original's picture of 010001. OUT takes the pictures and, for every set, the
tables of `launch/eval.py` (`tables/`). LPIPS must have been imported (`esr-lefuse eval --import_lpips`). `--only fusion`,
`video`, `enlargement` or `fused` measures a part. `--fusion_ckpt` and `--sr_ckpt` measure other weights, under `--label`;
give each its own OUT, or its tables take the place of those before.
"""

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from sr_open_data import HELD_OUT, read, skimage_picture

from esr_lefuse_jax import cli
from esr_lefuse_jax.baselines import fuse
from esr_lefuse_jax.inference.pipeline import Pipeline, load
from esr_lefuse_jax.metrics import box_down

FUSION_METRICS = ("en", "sd", "mi", "scd", "vif_fusion", "qabf", "ssim_fusion", "niqe")
FRAMES = 24  # of each video
ENLARGED = ("190001.jpg", "200003.jpg", "200006.jpg")
SIDE, FUSED_SIDE = 640, 320
# CC BY-SA 4.0, of Debian's lomiri-wallpapers-16.04: for measuring, never trained on.
MORE = (
    "Bridge_by_Sander_Klootwijk",
    "Dragonfly_by_Bolly",
    "free_by_Peter_Nerlich",
    "greentock_by_Peter_Nerlich",
)


def measure_fusion(args: argparse.Namespace) -> None:
    """Whole sets beside max(CLAHE(Y), IR), and 010001 beside the original."""
    weights = ["--fusion_ckpt", args.fusion_ckpt] if args.fusion_ckpt else []
    for name in ("llvip/test", "m3fd"):
        data, out = args.data / name, args.out / name
        sources = ["--ir_dir", data / "ir", "--vis_dir", data / "vi"]
        command("infer", *sources, "--fusion_only", "--out_dir", out / args.label, *weights)
        evaluate(out / args.label, *sources, "--baselines", "clahe_max", "--metrics", *FUSION_METRICS)
    out = args.out / "llvip/010001"
    for kind in ("ir", "vi"):
        (out / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(args.data / "llvip/train" / kind / "010001.jpg", out / kind)
    sources = ["--ir_dir", out / "ir", "--vis_dir", out / "vi"]
    command("infer", *sources, "--fusion_only", "--out_dir", out / args.label, *weights)
    original = f"original={args.data / 'llvip/original_fused_lr'}"
    evaluate(out / args.label, *sources, "--compare", original, "--metrics", *FUSION_METRICS)


def measure_flicker(args: argparse.Namespace) -> None:
    """Prints how far mean luminance moves from frame to frame, of the network and of max(Y, IR), in grey levels."""
    pipeline = load(args.fusion_ckpt)
    for path in sorted((args.data / "video" / "vi").glob("*.mp4")):
        means = []
        streams = [cv2.VideoCapture(str(args.data / "video" / kind / path.name)) for kind in ("vi", "ir")]
        for _ in range(FRAMES):
            (found, visible), (found_too, infrared) = (stream.read() for stream in streams)
            if not found or not found_too:
                break
            visible, infrared = np.ascontiguousarray(visible[..., ::-1]), infrared[..., 0]
            pictures = (levels(pipeline.fuse(visible, infrared)), fuse("max", visible, infrared))
            means.append([float((picture @ np.array([0.299, 0.587, 0.114])).mean()) for picture in pictures])
        moved = np.abs(np.diff(np.array(means), axis=0)).mean(axis=0)
        print(
            f"{path.stem}: {len(means)} frames, {args.label} {moved[0]:.3f}, max(Y, IR) {moved[1]:.3f}",
            flush=True,
        )


def measure_fused(args: argparse.Namespace) -> None:
    """How the enlargement of fused night pictures agrees with its input and with bicubic enlargement."""
    pipeline, out = load(args.fusion_ckpt, args.sr_ckpt), args.out / "fused"
    for file in ENLARGED:
        visible, infrared = (read(args.data / "llvip/test" / kind / file) for kind in ("vi", "ir"))
        lr = centre(levels(pipeline.fuse(visible, infrared[..., 0])), FUSED_SIDE)
        enlarge(pipeline, lr, out, Path(file).stem, args.label)
    evaluate(
        out / args.label,
        "--lr_dir",
        out / "lr",
        "--gt_baseline",
        "bicubic4x",
        "--metrics",
        "psnr",
        "lr_consistency",
    )


def measure_enlargement(args: argparse.Namespace) -> None:
    """True x4 on held-out photographs, frames of the held-out clip and LLVIP, beside bicubic enlargement."""
    pipeline = load(args.fusion_ckpt, args.sr_ckpt)
    frames = sorted((args.data / "m3svd" / "vi").glob(f"{HELD_OUT}*.jpg"))[::7]
    sets = {
        "photographs": {name: skimage_picture(f"{name}.png") for name in ("coffee", "chelsea")},
        "held_out_clip": {path.stem: read(path) for path in frames},
        # Reduced to a third, for they are soft at their own size.
        "more_photographs": {name: thirds(read(args.photographs / f"{name}.jpg")) for name in MORE}
        if args.photographs
        else {},
        "llvip_x4": {Path(file).stem: read(args.data / "llvip/test/vi" / file) for file in ENLARGED},
    }
    for name, pictures in sets.items():
        if not pictures:
            continue
        out = args.out / name
        for stem, picture in pictures.items():
            hr = centre(picture)
            write(out / "gt" / f"{stem}.png", hr)
            enlarge(pipeline, np.rint(box_down(hr, 4)).astype(np.uint8), out, stem, args.label)
        truth = ["--lr_dir", out / "lr", "--gt_baseline", "gt", out / "gt", "--baselines", "bicubic"]
        evaluate(out / args.label, *truth, "--metrics", "psnr", "ssim", "lpips", "lr_consistency")


def enlarge(pipeline: Pipeline, lr: np.ndarray, out: Path, stem: str, label: str) -> None:
    """Writes a small picture and its enlargement."""
    write(out / "lr" / f"{stem}.png", lr)
    write(out / label / f"{stem}.png", levels(pipeline.enlarge(lr)))


def evaluate(made: Path, *flags: object) -> None:
    """`launch/eval.py` on the pictures of a set; the tables go beside their folder."""
    command("eval", "--pred_dir", made, *flags, "--out_dir", made.parent / "tables", "--quiet")


def command(*words: object) -> None:
    """Runs an `esr-lefuse` command; stops when it fails."""
    if cli.main([str(word) for word in words]):
        raise SystemExit(f"measure_open: {words[0]} failed")


def write(path: Path, picture: np.ndarray) -> None:
    """Writes a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def centre(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The middle of a picture, at most side x side, sides multiples of 16."""
    top, left = (max(length - side, 0) // 2 for length in picture.shape[:2])
    height, width = (min(length, side) // 16 * 16 for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def thirds(picture: np.ndarray) -> np.ndarray:
    """A picture at a third of its size, by box means."""
    height, width = (length // 3 * 3 for length in picture.shape[:2])
    return np.rint(box_down(picture[:height, :width], 3)).astype(np.uint8)


def levels(image: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as uint8."""
    return np.round(image * 255).astype(np.uint8)


PARTS = {
    "fusion": measure_fusion,
    "video": measure_flicker,
    "enlargement": measure_enlargement,
    "fused": measure_fused,
}


def main() -> None:
    """Measures all or a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--fusion_ckpt", help="other fusion weights than the package's")
    parser.add_argument("--sr_ckpt", help="other super-resolution weights than the package's")
    parser.add_argument(
        "--photographs",
        type=Path,
        help="where lomiri-wallpapers-16.04 put its pictures, to measure four of them",
    )
    parser.add_argument("--label", default="open", help="name of the weights in tables (default %(default)s)")
    args = parser.parse_args()
    for name, measure in PARTS.items():
        if not args.only or name in args.only:
            measure(args)


if __name__ == "__main__":
    main()
