"""Inference beside PyTorch, in one run on one machine: time, CPU time, memory, compilation.

    make benchmark                                          # or, with what it sets up:
    .venv/bin/python benchmarks/run.py --cases fusion sr ensemble    # 512x640, 128x160, eight times that
    .venv/bin/python benchmarks/run.py --cases end_to_end   # 1280x1024: minutes, and 13 GB for PyTorch

Every variant runs in a process of its own, so that its peak memory is its own; memory is counted above what importing
the framework takes. Times are medians after a first run, which is the compile time; the variants take turns. PyTorch
runs the statement of the networks in `tests/torch_reference.py`, which the tests hold to the golden numbers; this
package is held to them before anything is timed. PyTorch's best is the fastest of its variants. The machine must be
otherwise idle for the numbers to mean anything.
"""

import argparse
import itertools
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

CASES = {"fusion": (512, 640), "sr": (128, 160), "ensemble": (128, 160), "end_to_end": (1024, 1280)}
TORCH = ("torch", "torch channels_last", "torch channels_last compiled")
# Multiply-adds for each input pixel, counted from the layers of the original networks.
MACS = {"fusion": 564_000, "sr": 6_067_000}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["fusion", "sr", "ensemble"])
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="another input size")
    parser.add_argument("--rounds", type=int, default=3, help="how often all variants take their turn")
    parser.add_argument("--repeats", type=int, default=3, help="runs of a variant in each of its turns")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compiled", action="store_true", help="also torch.compile, which takes minutes")
    parser.add_argument("--no_torch", action="store_true", help="only this package")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(_measure(args.variant, args.cases[0], _size(args, args.cases[0]), args)))
        return
    variants = ["jax"] + ([] if args.no_torch else list(TORCH if args.compiled else TORCH[:2]))
    for case in args.cases:
        # In turns: what else the machine does from minute to minute then meets all variants alike.
        turns = [
            {variant: _in_own_process(variant, case, args) for variant in variants}
            for _ in range(args.rounds)
        ]
        rows = {variant: _pool([turn[variant] for turn in turns]) for variant in variants}
        _print(case, _size(args, case), rows, args)


def _size(args: argparse.Namespace, case: str) -> tuple[int, int]:
    return tuple(args.size) if args.size else CASES[case]


def _in_own_process(variant: str, case: str, args: argparse.Namespace) -> dict:
    command = [
        sys.executable,
        __file__,
        "--variant",
        variant,
        "--cases",
        case,
        "--repeats",
        str(args.repeats),
    ]
    command += ["--dtype", args.dtype, *(["--size", *map(str, args.size)] if args.size else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"failed": f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def _pool(turns: list[dict]) -> dict:
    """One row from the turns of a variant: medians over all runs; memory is the largest."""
    for turn in turns:
        if "failed" in turn:
            return turn
    seconds = statistics.median(itertools.chain.from_iterable(turn["seconds"] for turn in turns))
    return {
        "seconds": seconds,
        "cpu": statistics.median(itertools.chain.from_iterable(turn["cpu"] for turn in turns)),
        "first": statistics.median(turn["first"] for turn in turns),
        "memory": max(turn["memory"] for turn in turns),
        "gflops": turns[0]["gflop"] / seconds,
        "peak": statistics.median(turn["peak"] for turn in turns),
    }


def _print(case: str, size: tuple[int, int], rows: dict[str, dict], args: argparse.Namespace) -> None:
    print(f"\n{case}, {size[0]}x{size[1]}, {args.dtype}, median of {args.rounds} x {args.repeats}")
    print(
        f"{'':30} {'seconds':>9} {'CPU s':>8} {'first s':>8} {'memory MB':>10} {'GFLOP/s':>8} {'of peak':>8} {'ratio':>6}"
    )
    times = [row["seconds"] for name, row in rows.items() if name != "jax" and "seconds" in row]
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:30} {row['failed']}")
            continue
        ratio = f"{min(times) / row['seconds']:.2f}" if times else "-"
        print(
            f"{name:30} {row['seconds']:9.3f} {row['cpu']:8.2f} {row['first']:8.1f} {row['memory']:10.0f} "
            f"{row['gflops']:8.0f} {row['gflops'] / row['peak']:8.0%} {ratio:>6}"
        )
    print(
        "ratio: PyTorch's best time over this one. GFLOP/s: of the original layers, also where fewer are computed."
    )


def _measure(variant: str, case: str, size: tuple[int, int], args: argparse.Namespace) -> dict:
    import numpy as np

    rng = np.random.default_rng(0)
    visible, infrared = rng.random((1, *size, 3), np.float32), rng.random((1, *size, 1), np.float32)
    build = _jax if variant == "jax" else _torch
    run, baseline, peak = build(variant, case, visible, infrared, args.dtype)
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    seconds, cpu = [], []
    for _ in range(args.repeats):
        started, started_cpu = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    macs = {**MACS, "ensemble": 8 * MACS["sr"], "end_to_end": sum(MACS.values())}[case]
    return {
        "seconds": seconds,
        "cpu": cpu,
        "first": first,
        "memory": _peak_memory() - baseline,
        "gflop": 2 * macs * size[0] * size[1] / 1e9,
        "peak": peak,
    }


def _peak_memory() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _matmul_peak(multiply) -> float:
    """GFLOP/s of a product of 2048x2048 matrices; `multiply` returns when it is done."""
    multiply()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times) / 1e9


def _jax(variant: str, case: str, visible, infrared, dtype: str):
    import jax
    import jax.numpy as jnp
    import networks

    from esr_lefuse_jax.inference.pipeline import Pipeline

    baseline = _peak_memory()
    ones = jnp.ones((2048, 2048), dtype)
    product = jax.jit(jnp.dot)
    peak = _matmul_peak(lambda: product(ones, ones).block_until_ready())
    weights = networks.variables("fusion"), networks.variables("sr")
    pipeline = Pipeline(*weights, dtype=dtype)
    _check(pipeline)
    if case == "ensemble":
        pipeline = Pipeline(*weights, dtype=dtype, ensemble="x8")
    run = {
        "ensemble": lambda: pipeline.enlarge(visible),
        "fusion": lambda: pipeline.fuse(visible, infrared),
        "sr": lambda: pipeline.enlarge(visible),
        "end_to_end": lambda: pipeline(visible, infrared),
    }[case]
    return run, baseline, peak


def _check(pipeline) -> None:
    """What is timed must be the original function: the golden numbers, within what the arithmetic allows."""
    import networks
    import numpy as np

    with np.load(ROOT / "tests" / "data" / "golden.npz") as golden:
        expected = networks.nhwc(golden["hybrid/24x40/out_single"])
    visible, infrared = (
        networks.image("hrgb24x40", (1, 3, 24, 40)),
        networks.image("hir24x40", (1, 1, 24, 40)),
    )
    difference = np.abs(pipeline(visible, infrared).hr - expected).mean()
    assert difference < (3e-6 if pipeline.dtype == "float32" else 0.02), difference


def _torch(variant: str, case: str, visible, infrared, dtype: str):
    import formula
    import networks
    import torch
    import torch_reference

    baseline = _peak_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    layout = torch.channels_last if "channels_last" in variant else torch.contiguous_format
    modules = {"fusion": torch_reference.FusionNet(), "sr": torch_reference.SRNet()}
    for name, module in modules.items():
        module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in formula.state_dict(name).items()})
        module.eval().to(device=device, dtype=kind, memory_format=layout)
        if "compiled" in variant:
            modules[name] = torch.compile(module)
    ones = torch.ones((2048, 2048), dtype=kind, device=device)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def multiply() -> None:
        torch.mm(ones, ones)
        wait()

    peak = _matmul_peak(multiply)

    def tensor(array):
        return torch.from_numpy(networks.nchw(array).copy()).to(
            device=device, dtype=kind, memory_format=layout
        )

    def fuse():
        return modules["fusion"](tensor(visible[..., :1]), tensor(infrared)).float().cpu().numpy()

    def enlarge():
        return modules["sr"](tensor(visible)).float().cpu().numpy()

    def ensemble():
        total = 0
        for flipped in (False, True):
            for turns in range(4):
                image = torch.rot90(tensor(visible[:, :, ::-1] if flipped else visible), turns, (2, 3))
                enlarged = torch.rot90(modules["sr"](image), -turns, (2, 3))
                total = total + (enlarged.flip(3) if flipped else enlarged)
        return (total / 8).float().cpu().numpy()

    steps = {"fusion": (fuse,), "sr": (enlarge,), "ensemble": (ensemble,), "end_to_end": (fuse, enlarge)}[
        case
    ]

    def run() -> None:
        with torch.inference_mode():
            for step in steps:
                step()
            wait()

    return run, baseline, peak


if __name__ == "__main__":
    main()
