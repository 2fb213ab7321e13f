"""Training on pictures made in memory: the data of the loop tests, and a program for the process tests.

python tests/training_support.py WORKDIR '{"steps": 8, "optimizer.clip_norm": 0}' [PROCESSES INDEX PORT]
"""

import contextlib
import json
import os
import pathlib
import sys
import time

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from esr_lefuse_jax.config import default_config
from esr_lefuse_jax.training import inputs, parallel

LR, SIZE = (12, 16), (32, 40)


def blocks(rng, height, width, channels, side=4):
    """Random squares: pictures with edges that can be learned."""
    cells = rng.uniform(size=(-(-height // side), -(-width // side), channels))
    return np.kron(cells, np.ones((side, side, 1)))[:height, :width].astype(np.float32)


def sr_example(index, lr=LR):
    hr = blocks(np.random.default_rng(index), 4 * lr[0], 4 * lr[1], 3, side=6)
    return {"lr": hr.reshape(lr[0], 4, lr[1], 4, 3).mean(axis=(1, 3)), "hr": hr}


def fusion_example(index, size=SIZE):
    rng = np.random.default_rng(index)
    bright, infrared = blocks(rng, *size, 3), blocks(rng, *size, 1, side=8)
    enhanced = bright.mean(axis=-1, keepdims=True)
    return {
        "visible": 0.3 * bright,
        "infrared": infrared,
        "enhanced": enhanced,
        "target": np.maximum(enhanced, infrared),
    }


class MemoryData:
    """The data of one run; batches are numbered, so that any step can be asked for.

    Environment: TEST_BAD_STEPS, comma-separated steps (or `all`) whose batch has a NaN; TEST_STEP_SECONDS,
        how
    long a batch takes; TEST_ORDER_FILE, where the examples of every batch are noted.
    """

    def __init__(self, config):
        self._stage, self._batch_size, self._seed = config.stage, config.batch_size, config.seed
        self._make = sr_example if config.stage == "sr" else fusion_example
        self.examples = 16
        self.needs_teacher, self.notes = False, []
        self.fingerprint = f"memory {config.seed}"
        sizes = [LR, (9, 16), LR] if config.stage == "sr" else [SIZE, (33, 28), SIZE]
        self.validation = [self._make(1000 + i, size) for i, size in enumerate(sizes)]

    def batches(self, step):
        bad = os.environ.get("TEST_BAD_STEPS", "")
        index, count = parallel.process_index(), parallel.process_count()
        while True:
            time.sleep(float(os.environ.get("TEST_STEP_SECONDS", "0")))
            order = np.random.default_rng([self._seed, step]).integers(0, self.examples, self._batch_size)
            batch = [self._make(int(i)) for i in order[index::count]]
            if os.environ.get("TEST_ORDER_FILE"):
                with open(os.environ["TEST_ORDER_FILE"], "a") as file:
                    file.write(json.dumps([step, order.tolist()]) + "\n")
            step += 1
            stacked = {name: np.stack([example[name] for example in batch]) for name in batch[0]}
            if bad == "all" or str(step) in bad.split(","):
                next(iter(stacked.values()))[0, 0, 0, 0] = np.nan
            yield stacked


@contextlib.contextmanager
def open_memory_data(config):
    yield MemoryData(config)


def tiny_config(stage="sr", **changes):
    """A config of a few quick steps on the data above; `changes` by dotted key."""
    config = default_config(stage)
    config.data.train = "memory"
    config.batch_size = 4
    config.steps = 6
    config.eval.every_steps = 3
    config.log.every_steps = 1
    config.loss.fusion.perceptual = config.loss.sr.perceptual = 0.0
    config.loss.joint.supervision = "self"
    config.optimizer.schedule = "constant"
    config.parallel.devices = None
    for key, value in changes.items():
        *parents, name = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[name] = value
    return config


def main(workdir, changes, processes=None, index=None, port=None):
    """Trains as `esr-lefuse train` does; the config comes from `changes`."""
    from esr_lefuse_jax.commands import train

    inputs.open_data = open_memory_data
    changes = json.loads(changes)
    config = tiny_config(changes.pop("stage", "sr"), **changes)
    parallel.initialize(
        processes and int(processes),
        index and int(index),
        port and f"localhost:{port}",
        config.parallel.heartbeat_seconds,
    )
    return train.train(config, pathlib.Path(workdir))


if __name__ == "__main__":
    from esr_lefuse_jax.errors import EsrLefuseError

    try:
        sys.exit(main(*sys.argv[1:]))
    except EsrLefuseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
