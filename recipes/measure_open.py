"""Measures the weights that come with the package, as in their model card: `python recipes/measure_open.py DATA`.

DATA holds `llvip/train`, `llvip/test`, `m3fd` and `m3svd`, each with `ir/` and `vi/`. LPIPS must have been imported
(`esr-lefuse eval --import_lpips`).
"""

import sys
from pathlib import Path

import numpy as np
from sr_open_data import HELD_OUT, read, skimage_picture

from esr_lefuse_jax.baselines import fuse
from esr_lefuse_jax.evaluation.lpips import lpips
from esr_lefuse_jax.inference.pipeline import Pipeline, load
from esr_lefuse_jax.metrics import bicubic_up, box_down, fusion_metrics, psnr

NAMES = ("en", "sd", "mi", "scd", "vif_fusion", "qabf", "ssim_fusion", "niqe")
PAIRS = {
    "llvip/train": ("010001.jpg",),
    "llvip/test": ("190001.jpg", "190004.jpg", "200003.jpg", "200006.jpg"),
    "m3fd": ("00109.png", "00388.png", "01952.png", "02523.png"),
}
ENLARGED = ("190001.jpg", "200003.jpg", "200006.jpg")
SIDE = 640


def measure_fusion(pipeline: Pipeline, data: Path) -> None:
    """Prints means over each set, of the network and of max(CLAHE(Y), IR)."""
    for name, files in PAIRS.items():
        rows = []
        for file in files:
            visible, infrared = read(data / name / "vi" / file), read(data / name / "ir" / file)[..., 0]
            results = (levels(pipeline.fuse(visible, infrared)), fuse("clahe_max", visible, infrared))
            rows.append([list(fusion_metrics(r, infrared, visible, NAMES).values()) for r in results])
        for method, values in zip(
            ("fusion_open", "clahe_max"), np.mean(np.array(rows, float), axis=0), strict=True
        ):
            print(name, method, *(f"{k} {v:.3f}" for k, v in zip(NAMES, values, strict=True)), flush=True)


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


def centre(picture: np.ndarray) -> np.ndarray:
    """The middle of a picture, at most 640x640, sides multiples of 16."""
    top, left = (max(length - SIDE, 0) // 2 for length in picture.shape[:2])
    height, width = (min(length, SIDE) // 16 * 16 for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def levels(image: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as uint8."""
    return np.round(image * 255).astype(np.uint8)


if __name__ == "__main__":
    shipped = load()
    measure_fusion(shipped, Path(sys.argv[1]))
    measure_enlargement(shipped, Path(sys.argv[1]))
