"""A picture far larger than memory: fuses and enlarges 4096x3072 four times through the command line.

    .venv/bin/python benchmarks/large.py                    # about half an hour on two idle cores
    .venv/bin/python benchmarks/large.py --size 1024 1280 --max_memory 500M

The pair is a rendered night street, enlarged and with noise. The command runs in a process of its own; its peak memory
is all that it had resident, Python and libraries included. That whole pictures of this size are right cannot be held
against the plain networks, which would need more than 100 GB; a crop can: it goes through the same plan, the same height
of strips and planes on disk where the large picture has them, and is compared with the plain modules.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import cv2
import jax
import numpy as np

from esr_lefuse_jax.color import rgb_to_ycrcb, ycrcb_to_rgb
from esr_lefuse_jax.images import read_visible
from esr_lefuse_jax.inference import disk_planes, fast_fusion, fast_sr, memory, streaming, strips
from esr_lefuse_jax.inference.pipeline import load_variables
from esr_lefuse_jax.models.fusion import FusionUNet
from esr_lefuse_jax.models.sr import ESRUNet
from esr_lefuse_jax.synthetic import render_night_pair

CROP = (256, 320)


def write_pair(folder: pathlib.Path, height: int, width: int) -> None:
    """Writes `vi/large.png` and `ir/large.png`."""
    pair = render_night_pair(384, 512, seed=1)
    rng = np.random.default_rng(0)
    for name, image in (("vi", pair.visible), ("ir", pair.infrared)):
        large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        large += rng.normal(0, 0.01, large.shape).astype(np.float32)
        levels = np.round(np.clip(large, 0, 1) * 255).astype(np.uint8)
        (folder / name).mkdir(parents=True)
        cv2.imwrite(str(folder / name / "large.png"), levels if levels.ndim == 2 else levels[..., ::-1])


def run_command(folder: pathlib.Path, max_memory: str) -> tuple[float, float, float]:
    """Runs `infer` over the folder: seconds, CPU seconds and peak memory in MB of its process."""
    launch = pathlib.Path(__file__).resolve().parents[1] / "launch" / "infer.py"
    command = [sys.executable, launch, "--ir_dir", folder / "ir", "--vis_dir", folder / "vi"]
    command += ["--out_dir", folder / "out", "--max_memory", max_memory]
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)))
    peak = 0.0
    while process.poll() is None:
        # Not wait4's figure: a child's begins at its parent's.
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) / 1024 for line in status.splitlines() if "VmHWM" in line)])
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"infer: exit code {process.returncode}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, peak


def compare_crop(visible: np.ndarray, infrared: np.ndarray, height: int, width: int, budget: int | None):
    """Largest and mean difference between the large picture's plan on a crop and the plain modules, by stage."""
    device = jax.devices()[0]
    weights = load_variables(None, None)
    assert weights.sr is not None

    def planes(plan: memory.Plan) -> streaming.Planes:
        return disk_planes.OnDisk() if plan.on_disk else streaming.InMemory()

    rgb, thermal = visible[None].astype(np.float32), infrared[None, ..., None].astype(np.float32)
    sizes = (np.array([CROP[0]]), np.array([CROP[1]]))
    y, cr, cb = rgb_to_ycrcb(rgb)
    plan = memory.plan_fusion(1, (height, width), 4, budget, device)
    folded = jax.device_put(fast_fusion.prepare(weights.fusion))
    ours = strips.fuse_strips(folded, y, thermal, *sizes, plan.strip or CROP[0], planes(plan))
    plain = jax.jit(FusionUNet().apply)(weights.fusion, y, thermal)
    first = largest_and_mean(ours - plain)

    fused = np.asarray(ycrcb_to_rgb(plain, cr, cb))
    plan = memory.plan_enlargement(1, (height, width), 4, 4, budget, device)
    folded = jax.device_put(fast_sr.prepare(weights.sr))
    ours = strips.enlarge_strips(folded, fused, *sizes, 4, plan.strip or CROP[0], planes(plan))
    plain = jax.jit(ESRUNet(scale=4).apply)(weights.sr, fused)
    return first, largest_and_mean(ours - plain)


def largest_and_mean(difference: np.ndarray) -> tuple[float, float]:
    """Of the absolute values."""
    return float(np.abs(difference).max()), float(np.abs(difference).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(3072, 4096))
    parser.add_argument("--max_memory", default="1500M")
    args = parser.parse_args()
    if args.size[0] < CROP[0] or args.size[1] < CROP[1]:
        parser.error(f"--size: at least {CROP[0]} {CROP[1]}, the crop that is compared")
    (height, width), budget = args.size, memory.parse_bytes(args.max_memory)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_pair(folder, height, width)
        visible = read_visible(folder / "vi" / "large.png")[: CROP[0], : CROP[1]]
        infrared = np.float32(cv2.imread(str(folder / "ir" / "large.png"), cv2.IMREAD_GRAYSCALE)) / 255
        corner = infrared[: CROP[0], : CROP[1]]
        first, second = compare_crop(visible, corner, height, width, budget)
        print("crop beside the plain modules, largest and mean difference:")
        print(f"  stage 1 {first[0]:.1e} {first[1]:.1e}, stage 2 {second[0]:.1e} {second[1]:.1e}", flush=True)
        seconds, cpu, peak = run_command(folder, args.max_memory)
        print(
            f"{width}x{height}, --max_memory {args.max_memory}: {seconds:.0f} s, {cpu:.0f} CPU s, {peak:.0f} MB"
        )
        for path in sorted((folder / "out").rglob("*.png")):
            enlarged = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            print(
                f"  {path.name}: {enlarged.shape[1]}x{enlarged.shape[0]}, {path.stat().st_size / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
