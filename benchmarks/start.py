"""How long a process takes to start: the first run of both stages with an empty and with a filled program cache.

    .venv/bin/python benchmarks/start.py

Two processes, one after the other, share a new cache folder. Each prints what its first run took beyond a second one.
"""

import os
import subprocess
import sys
import tempfile
import time

SIZE = (256, 1280)


def measure() -> None:
    """Prints the times of one process."""
    import numpy as np

    from esr_lefuse_jax.inference import compilation_cache
    from esr_lefuse_jax.inference.pipeline import load

    started = time.perf_counter()
    compilation_cache.enable()
    pipeline = load()
    print(f"  loading {time.perf_counter() - started:.2f} s", end="")
    rng = np.random.default_rng(0)
    visible, infrared = rng.random((*SIZE, 3), np.float32), rng.random(SIZE, np.float32)
    stages = {
        "stage 1": lambda: pipeline.fuse(visible, infrared),
        "stage 2": lambda: pipeline.enlarge(visible[:64]),
    }
    for name, run in stages.items():
        times = []
        for _ in range(2):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        print(f", {name} {times[0] - times[1]:.2f} s", end="")
    print(flush=True)


def main() -> None:
    if "--measure" in sys.argv:
        return measure()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for title in ("empty cache:", "second process:"):
            print(title, flush=True)
            subprocess.run([sys.executable, __file__, "--measure"], env=environment, check=True)


if __name__ == "__main__":
    main()
