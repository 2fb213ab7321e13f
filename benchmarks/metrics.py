"""Metrics on one core, beside scikit-image and sewar in the same run.

    python benchmarks/metrics.py [--rounds 5] [--large]

The images are a rendered night pair of 1280x1024: nothing has to be downloaded. Our function and its oracle take
turns, so that other load on the machine meets both alike; the median of the rounds counts. CPU time is shown: it
is what one core needs. `--large` adds a 5120x4096 image with the memory it takes. Needs the extra `test`.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time
import tracemalloc

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import sewar
import skimage.measure
import skimage.metrics
from sewar.utils import Filter

from esr_lefuse_jax import metrics
from esr_lefuse_jax.metrics import METRICS
from esr_lefuse_jax.metrics.registry import FUSION_METRICS, REFERENCE_METRICS
from esr_lefuse_jax.synthetic import render_night_pair


def levels(image):
    return np.clip(np.rint(np.asarray(image) * 255), 0, 255).astype(np.uint8)


def seconds(function, *arguments):
    start = time.process_time()
    value = function(*arguments)
    return time.process_time() - start, value


def beside_oracles(fused, visible, rounds):
    gray = [metrics.to_gray(visible), metrics.to_gray(fused)]
    ssim = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    gaussian = {"fltr": Filter.GAUSSIAN, "sigma": 1.5, "ws": 11}
    rows = [
        ("VIFp, gray", lambda: metrics.vifp(*gray), "sewar", lambda: sewar.vifp(*gray)),
        ("VIFp, RGB", lambda: metrics.vifp_rgb(visible, fused), "sewar", lambda: sewar.vifp(visible, fused)),
        (
            "SSIM, RGB",
            lambda: metrics.ssim(visible, fused),
            "scikit-image",
            lambda: skimage.metrics.structural_similarity(visible, fused, channel_axis=2, **ssim),
        ),
        (
            "SSIM, RGB",
            lambda: metrics.ssim(visible, fused),
            "sewar",
            lambda: sewar.ssim(visible, fused, fltr_specs=gaussian)[0],
        ),
        (
            "PSNR, RGB",
            lambda: metrics.psnr(visible, fused),
            "scikit-image",
            lambda: skimage.metrics.peak_signal_noise_ratio(visible, fused, data_range=255),
        ),
        (
            "EN, gray",
            lambda: metrics.entropy(gray[1]),
            "scikit-image",
            lambda: skimage.measure.shannon_entropy(gray[1]),
        ),
    ]
    print(f"{'metric':<12}{'ours ms':>10}{'oracle ms':>12}{'ratio':>9}{'difference':>13}  oracle")
    for name, ours, oracle, theirs in rows:
        times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        mine, other = (statistics.median(pair[side][0] for pair in times) for side in (0, 1))
        gap = abs(times[0][0][1] - times[0][1][1])
        print(f"{name:<12}{mine * 1e3:>10.1f}{other * 1e3:>12.1f}{other / mine:>8.1f}x{gap:>13.1e}  {oracle}")


def every_metric(fused, infrared, visible, names, rounds):
    total = 0.0
    for name in names:
        metric = METRICS[name]
        images = {
            "image": (fused,),
            "sources": (fused, infrared, visible),
            "reference": (visible, fused),
        }[metric.needs]
        took = statistics.median(seconds(metric.compute, *images)[0] for _ in range(rounds))
        total += took
        print(f"  {name:<14}{took * 1e3:>9.1f} ms")
    print(f"  {'all':<14}{total * 1e3:>9.1f} ms")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="also a 5120x4096 image")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pair = render_night_pair(1024, 1280, 0)
    visible, infrared = levels(pair.visible), levels(pair.infrared)
    fused = np.maximum(visible, infrared[..., None])
    print("1280x1024, CPU time on one core\n")
    beside_oracles(fused, visible, args.rounds)
    print("\nall default metrics of one image, fusion and reference:")
    every_metric(fused, infrared, visible, (*FUSION_METRICS, *REFERENCE_METRICS), args.rounds)
    if args.large:
        large = metrics.bicubic_up(fused, rounded=True)
        reference = metrics.bicubic_up(visible, rounded=True)
        names = ("en", "ag", "sd", "sf", "niqe", "psnr", "ssim", "vif")
        print("\n5120x4096:")
        every_metric(large, None, reference, names, 1)
        tracemalloc.start()
        for name in names:
            metric = METRICS[name]
            metric.compute(large) if metric.needs == "image" else metric.compute(reference, large)
        peak = tracemalloc.get_traced_memory()[1]
        print(f"  peak memory beside the two images of {large.nbytes >> 20} MiB: {peak >> 20} MiB")


if __name__ == "__main__":
    main()
