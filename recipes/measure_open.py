"""Measures the weights that come with the package, as in their model card: `python recipes/measure_open.py DATA`.

DATA holds `llvip/train`, `llvip/test`, `m3fd`, `m3svd` and `video`, each with `ir/` and `vi/`; the last holds `.mp4`
files. LPIPS must have been imported (`esr-lefuse eval --import_lpips`). `--only fusion`, `video`, `enlargement` or
`fused` measures a part.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sr_open_data import HELD_OUT, read, skimage_picture

from esr_lefuse_jax.baselines import fuse
from esr_lefuse_jax.evaluation.lpips import lpips
from esr_lefuse_jax.inference.pipeline import Pipeline, load
from esr_lefuse_jax.metrics import bicubic_up, box_down, fusion_metrics, psnr

NAMES = ("en", "sd", "mi", "scd", "vif_fusion", "qabf", "ssim_fusion", "niqe")
PAIRS = {"llvip/train": "010001.jpg", "llvip/test": "*.jpg", "m3fd": "*.png"}
FRAMES = 24  # of each video
ENLARGED = ("190001.jpg", "200003.jpg", "200006.jpg")
SIDE, FUSED_SIDE = 640, 320


def measure_fusion(pipeline: Pipeline, data: Path) -> None:
    """Prints means over each set, of the network and of max(CLAHE(Y), IR)."""
    for name, pattern in PAIRS.items():
        rows = []
        for path in sorted((data / name / "vi").glob(pattern)):
            visible, infrared = read(path), read(data / name / "ir" / path.name)[..., 0]
            results = (levels(pipeline.fuse(visible, infrared)), fuse("clahe_max", visible, infrared))
            rows.append([list(fusion_metrics(r, infrared, visible, NAMES).values()) for r in results])
            print(name, path.stem, *(f"{value:.3f}" for value in rows[-1][0]), flush=True)
        for method, values in zip(
            ("fusion_open", "clahe_max"), np.mean(np.array(rows, float), axis=0), strict=True
        ):
            print(name, method, *(f"{k} {v:.3f}" for k, v in zip(NAMES, values, strict=True)), flush=True)


def measure_flicker(pipeline: Pipeline, data: Path) -> None:
    """Prints how far mean luminance moves from frame to frame, of the network and of max(Y, IR), in grey levels."""
    for path in sorted((data / "video" / "vi").glob("*.mp4")):
        means = []
        streams = [cv2.VideoCapture(str(data / "video" / kind / path.name)) for kind in ("vi", "ir")]
        for _ in range(FRAMES):
            (found, visible), (found_too, infrared) = (stream.read() for stream in streams)
            if not found or not found_too:
                break
            visible, infrared = np.ascontiguousarray(visible[..., ::-1]), infrared[..., 0]
            pictures = (levels(pipeline.fuse(visible, infrared)), fuse("max", visible, infrared))
            means.append([float((picture @ np.array([0.299, 0.587, 0.114])).mean()) for picture in pictures])
        moved = np.abs(np.diff(np.array(means), axis=0)).mean(axis=0)
        print(
            f"{path.stem}: {len(means)} frames, fusion_open {moved[0]:.3f}, max(Y, IR) {moved[1]:.3f}",
            flush=True,
        )


def measure_fused(pipeline: Pipeline, data: Path) -> None:
    """Prints how the enlargement of fused night pictures agrees with its input and with bicubic enlargement."""
    rows = []
    for file in ENLARGED:
        visible, infrared = (read(data / "llvip/test" / kind / file) for kind in ("vi", "ir"))
        lr = centre(levels(pipeline.fuse(visible, infrared[..., 0])), FUSED_SIDE)
        enlarged = levels(pipeline.enlarge(lr))
        rows.append((psnr(lr, box_down(enlarged, 4)), psnr(enlarged, bicubic_up(lr, 4, rounded=True))))
    consistency, beside_bicubic = np.mean(rows, axis=0)
    print(
        f"fused llvip/test lr_consistency {consistency:.2f} psnr_vs_bicubic {beside_bicubic:.2f}", flush=True
    )


def measure_enlargement(pipeline: Pipeline, data: Path) -> None:
    """Prints means over held-out photographs and over LLVIP, of the network and of bicubic enlargement."""
    frames = sorted((data / "m3svd" / "vi").glob(f"{HELD_OUT}*.jpg"))[::7]
    sets = {
        "photographs": [skimage_picture("coffee.png"), skimage_picture("chelsea.png"), *map(read, frames)],
        "llvip/test": [read(data / "llvip/test/vi" / file) for file in ENLARGED],
    }
    for name, pictures in sets.items():
        rows = []
        for picture in pictures:
            hr = centre(picture)
            lr = np.rint(box_down(hr, 4)).astype(np.uint8)
            ours, plain = levels(pipeline.enlarge(lr)), bicubic_up(lr, 4, rounded=True)
            fidelity = psnr(hr, ours), psnr(hr, plain), lpips(hr, ours), lpips(hr, plain)
            rows.append((*fidelity, psnr(lr, box_down(ours, 4))))
        titles = ("psnr", "psnr_bicubic", "lpips", "lpips_bicubic", "lr_consistency")
        print(name, *(f"{k} {v:.4f}" for k, v in zip(titles, np.mean(rows, axis=0), strict=True)), flush=True)


def centre(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The middle of a picture, at most side x side, sides multiples of 16."""
    top, left = (max(length - side, 0) // 2 for length in picture.shape[:2])
    height, width = (min(length, side) // 16 * 16 for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


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
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--fusion_ckpt", help="other fusion weights than the package's")
    args = parser.parse_args()
    pipeline = load(args.fusion_ckpt)
    for name, measure in PARTS.items():
        if not args.only or name in args.only:
            measure(pipeline, args.data)


if __name__ == "__main__":
    main()
