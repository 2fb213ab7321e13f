"""Training throughput of both stages, beside the same step in PyTorch, in one run.

    python benchmarks/training.py [--steps 5] [--rounds 3] [--fusion_crop 64] [--sr_crop 24] [--batch_size 2]

One step is forward, L1 loss, backward and Adam, from the same weights on the same batch in float32; the
losses of the first steps are compared, so that both are known to do the same work. JAX and PyTorch take turns
(rounds), so that other load on the machine meets both alike; the best round of each counts. Needs the extra
`torch`.
"""

import argparse
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import torch

from esr_lefuse_jax.config import default_config
from esr_lefuse_jax.training import parallel
from esr_lefuse_jax.training.optimizer import make_optimizer
from esr_lefuse_jax.training.stages import Stage
from esr_lefuse_jax.training.state import create_state, initial_variables
from esr_lefuse_jax.training.steps import make_train_step
from tests import torch_reference
from weights_conversion.convert import flatten, to_state_dict


def l1_config(stage: str):
    config = default_config(stage)
    for term in config.loss.fusion:
        if term not in ("l1", "infrared_share", "dark_level", "activity_level"):
            config.loss.fusion[term] = 0.0
    config.loss.sr.perceptual = config.loss.sr.color = 0.0
    config.optimizer.clip_norm = 0.0
    config.optimizer.schedule = "constant"
    return config


def make_batch(stage: str, size: int, crop: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def draw(side, channels):
        return rng.uniform(size=(size, side, side, channels)).astype(np.float32)

    if stage == "sr":
        return {"lr": draw(crop, 3), "hr": draw(4 * crop, 3)}
    gray = draw(crop, 1)
    target = draw(crop, 1)
    return {
        "visible": np.repeat(gray, 3, -1),
        "infrared": draw(crop, 1),
        "enhanced": target,
        "target": target,
    }


class JaxRunner:
    """The step of this package."""

    def __init__(self, stage: str, batch: dict[str, np.ndarray]):
        config = l1_config(stage)
        model = Stage(config)
        variables = initial_variables(model.networks[stage], model.example_inputs()[stage], 0)
        self.variables = variables
        optimizer = make_optimizer(config.optimizer, 1)
        mesh = parallel.make_mesh(1)
        state = create_state({stage: variables}, optimizer, keep_average=False, scale_loss=False)
        self.state = parallel.put_replicated(jax.device_get(state), mesh)
        self.batch = parallel.put_batch(batch, mesh)
        self.step = jax.jit(make_train_step(model, optimizer), donate_argnums=0)

    def run(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            self.state, metrics = self.step(self.state, {}, self.batch)
            losses.append(metrics["loss"])
        return [float(loss) for loss in losses]


class TorchRunner:
    """The same step of the reference statement in PyTorch."""

    def __init__(self, stage: str, batch: dict[str, np.ndarray], variables):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        network = torch_reference.FusionNet() if stage == "fusion" else torch_reference.SRNet()
        arrays = to_state_dict(stage, flatten(variables), "benchmark")
        network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()})
        self.network = network.to(self.device).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-4)
        self.batch = {
            k: torch.from_numpy(v.transpose(0, 3, 1, 2).copy()).to(self.device) for k, v in batch.items()
        }
        self.stage = stage

    def run(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            batch = self.batch
            if self.stage == "fusion":
                output, target = self.network(batch["visible"][:, :1], batch["infrared"]), batch["target"]
            else:
                output, target = self.network(batch["lr"]), batch["hr"]
            loss = (output - target).abs().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return [float(loss) for loss in losses]


def compare(stage: str, size: int, crop: int, steps: int, rounds: int) -> dict[str, object]:
    batch = make_batch(stage, size, crop)
    ours = JaxRunner(stage, batch)
    begun = time.monotonic()
    first = ours.run(1)
    compilation = time.monotonic() - begun
    theirs = TorchRunner(stage, batch, ours.variables)
    difference = max(abs(a - b) / abs(b) for a, b in zip(first + ours.run(2), theirs.run(3), strict=True))
    best = {"jax": float("inf"), "torch": float("inf")}
    for _ in range(rounds):
        for name, runner in (("jax", ours), ("torch", theirs)):
            begun = time.monotonic()
            runner.run(steps)
            best[name] = min(best[name], (time.monotonic() - begun) / steps)
    return {
        "stage": stage,
        "batch": size,
        "crop": crop,
        "jax_samples_per_second": round(size / best["jax"], 3),
        "torch_samples_per_second": round(size / best["torch"], 3),
        "ratio": round(best["torch"] / best["jax"], 2),
        "compilation_seconds": round(compilation, 1),
        "largest_loss_difference": float(f"{difference:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=["fusion", "sr"], choices=["fusion", "sr"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--fusion_crop", type=int, default=64)
    parser.add_argument("--sr_crop", type=int, default=24)
    args = parser.parse_args()
    cores = os.cpu_count()
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}, {cores} cores, float32"
    )
    for stage in args.stages:
        crop = args.fusion_crop if stage == "fusion" else args.sr_crop
        print(json.dumps(compare(stage, args.batch_size, crop, args.steps, args.rounds)), flush=True)


if __name__ == "__main__":
    with jax.default_matmul_precision("highest"):
        main()
