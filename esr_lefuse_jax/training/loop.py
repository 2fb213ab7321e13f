"""Training from a config to the best weights: `train_and_evaluate`."""

import collections
import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from esr_lefuse_jax import weights
from esr_lefuse_jax.atomic import write_bytes
from esr_lefuse_jax.config import flatten, validate
from esr_lefuse_jax.errors import ConfigError, TrainingError
from esr_lefuse_jax.training import checkpointing, inputs, parallel
from esr_lefuse_jax.training.curves import write_curves
from esr_lefuse_jax.training.early_stopping import HIGHER_IS_BETTER, EarlyStopping
from esr_lefuse_jax.training.evaluation import evaluate, whole_image_batches
from esr_lefuse_jax.training.interrupts import on_sigterm
from esr_lefuse_jax.training.logging import Clock, RunLog, Window, describe, duration, read_metrics
from esr_lefuse_jax.training.networks import frozen_variables, starting_variables
from esr_lefuse_jax.training.optimizer import learning_rate_schedule, make_optimizer
from esr_lefuse_jax.training.run_lock import run_lock
from esr_lefuse_jax.training.snapshots import exported_variables, resume, to_items
from esr_lefuse_jax.training.stages import Stage
from esr_lefuse_jax.training.state import TrainState, create_state
from esr_lefuse_jax.training.steps import make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: steps done.
        best_step: step of the best evaluation, None when no evaluation was finite.
        best: its metric.
        interrupted: whether SIGTERM ended it; calling again goes on from here.
        stopped_early: whether patience ran out.
        skipped: steps skipped because something was not finite.
    """

    step: int
    best_step: int | None
    best: float | None
    interrupted: bool
    stopped_early: bool
    skipped: int


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> Result:
    """Trains one stage, or goes on with it when the folder holds a run of the same config and data.

    The folder receives `config.json`, `metrics.jsonl`, `parameters.txt`, `pictures/`, `checkpoints/`,
    `curves.png` and the best weights as `best.safetensors` (joint stage: `best_fusion.safetensors` and
    `best_sr.safetensors`).

    Args:
        config: from `config.default_config`, with overrides.
        workdir: the run folder; one writer at a time.

    Returns:
        How the run ended.

    Raises:
        ConfigError: an option cannot be used, or differs from the run's.
        TrainingError: too many non-finite steps in a row, or no checkpoint is intact.
        OutputError: the folder is in use or cannot be written.
    """
    validate(config)
    folder = Path(workdir)
    with contextlib.ExitStack() as stack:
        if parallel.is_first_process():
            stack.enter_context(run_lock(folder))
        request = stack.enter_context(on_sigterm(install=parallel.process_count() == 1))
        if config.precision == "float32":
            # GPUs and TPUs would otherwise multiply float32 in a shorter type.
            stack.enter_context(jax.default_matmul_precision("highest"))
        return _Run(config, folder, stack, lambda: request.received).go()


class _Run:
    """One run: what is set up once, and the loop."""

    def __init__(self, config: ConfigDict, folder: Path, stack: contextlib.ExitStack, stop_requested):
        self.config, self.folder = config, folder
        self._stop_requested, self._tick = stop_requested, 0
        self.mesh = parallel.make_mesh(config.parallel.devices)
        parallel.check_batch_size(config.batch_size // config.optimizer.accumulate, self.mesh, "batch_size")
        self.data = stack.enter_context(inputs.open_data(config))
        self.stage = Stage(config, needs_teacher=self.data.needs_teacher)

        steps_per_epoch = max(1, self.data.examples // config.batch_size)
        self.total_steps = config.steps or math.ceil(config.epochs * steps_per_epoch)
        self.eval_every = config.eval.every_steps or max(1, round(config.eval.every_epochs * steps_per_epoch))

        metric = config.early_stopping.metric
        maximize = (
            metric in HIGHER_IS_BETTER and metric not in config.loss[self.stage.name]
        )  # terms are minimised
        self.stopping = EarlyStopping(
            config.early_stopping.patience, config.early_stopping.min_delta, maximize
        )
        self.plateau = EarlyStopping(config.optimizer.plateau_patience, maximize=maximize)
        self.checkpoints = checkpointing.Checkpoints(
            folder / "checkpoints",
            best_step=lambda: self.stopping.best_step,
            keep_latest=config.checkpoint.keep_latest,
            asynchronous=config.checkpoint.asynchronous,
        )
        if parallel.is_first_process():
            stack.callback(self.checkpoints.close)

        self.last_evaluated = -1
        self.schedule = learning_rate_schedule(config.optimizer, self.total_steps)
        self.optimizer = make_optimizer(config.optimizer, self.total_steps)
        self.state, resumed_at = self._initial_state()
        self.log = RunLog(folder, parallel.is_first_process(), resumed_at, config.log.tensorboard)
        stack.callback(self.log.close)
        self.frozen = parallel.put_replicated(frozen_variables(config, self.stage), self.mesh)
        self._compile()
        self._introduce(resumed_at)

    def _compile(self) -> None:
        config, everywhere = self.config, parallel.replicated(self.mesh)
        split = parallel.batch_split(self.mesh)
        train_step = make_train_step(
            self.stage,
            self.optimizer,
            accumulate=config.optimizer.accumulate,
            average_decay=config.optimizer.ema_decay,
        )
        self.train_step = jax.jit(
            train_step,
            in_shardings=(everywhere, everywhere, split),
            out_shardings=everywhere,
            donate_argnums=0,
        )
        self.eval_step = jax.jit(
            make_eval_step(self.stage),
            in_shardings=(everywhere, everywhere, everywhere, split),
            out_shardings=(everywhere, split),
        )

    def _initial_state(self) -> tuple[TrainState, int | None]:
        """The state to start from, a fresh one or the latest checkpoint's, and its step (else None)."""
        config = self.config
        variables, self.terms = starting_variables(config, self.stage)
        fresh = create_state(
            variables,
            self.optimizer,
            keep_average=config.optimizer.ema_decay > 0,
            scale_loss=config.precision == "float16",
        )
        state, meta = resume(self.checkpoints, jax.device_get(fresh), config, self.data.fingerprint)
        if meta:
            self.stopping = self.stopping.restored(meta["early_stopping"])
            self.plateau = self.plateau.restored(meta["plateau"])
            self.last_evaluated = meta["last_evaluated"]
        return parallel.put_replicated(state, self.mesh), int(state.step) if meta else None

    def _introduce(self, resumed_at: int | None) -> None:
        if not parallel.is_first_process():
            return
        for note in self.data.notes:
            self.log.warn(note)
        if self.terms:
            self.log.warn(f"the weights this run starts from have terms, kept with its own: {self.terms}")
        options = json.dumps(flatten(self.config), indent=1, default=str)
        write_bytes(self.folder / "config.json", options.encode())
        overview = parameter_overview.get_parameter_overview(self.state.params, include_stats="global")
        write_bytes(self.folder / "parameters.txt", overview.encode())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.log.text(
            f"stage {self.stage.name}: {parameters:,} parameters (parameters.txt), {self.data.examples} "
            f"training and {len(self.data.validation)} validation examples, {self.mesh.size} device(s), "
            f"{parallel.process_count()} process(es), {self.config.precision}"
        )
        start = "start" if resumed_at is None else f"go on from step {resumed_at}"
        size, every = self.config.batch_size, self.eval_every
        self.log.text(f"{start}: {self.total_steps} steps of {size}, evaluation every {every}")

    def go(self) -> Result:
        """The loop: evaluate, save, next batch, step."""
        config, step = self.config, int(self.state.step)
        batches = self.data.batches(step)
        clock = Clock(step, self.total_steps, config.batch_size)
        pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        window = Window()
        first_step = step
        interrupted = False
        while True:
            done = step >= self.total_steps
            if (step % self.eval_every == 0 or done) and self.last_evaluated != step:
                self._settle(pending, window, keep=0)
                started = time.monotonic()
                interrupted = not self._evaluate(step)
                clock.leave_out(time.monotonic() - started)
            every = config.checkpoint.every_steps
            if self.last_evaluated == step or (every and step % every == 0) or interrupted:
                self._settle(pending, window, keep=0)
                started = time.monotonic()
                self._save(step)
                clock.leave_out(time.monotonic() - started)
            if done or interrupted or self.stopping.should_stop:
                break
            if self._should_stop():
                interrupted = True
                self._settle(pending, window, keep=0)
                self._save(step)
                break

            batch = parallel.put_batch(next(batches), self.mesh)
            self.state, metrics = self.train_step(self.state, self.frozen, batch)
            step += 1
            pending.append((step, metrics))
            # One step stays in flight, so that the next batch is read while the device works.
            self._settle(pending, window, keep=1)
            if step == first_step + 1:
                self._settle(pending, window, keep=0)
                clock.restart(step)
            if step % config.log.every_steps == 0 or step == self.total_steps:
                self._settle(pending, window, keep=0)
                self._report(step, window, clock)
        return self._finish(step, interrupted)

    def _should_stop(self) -> bool:
        self._tick += 1
        return parallel.stop_agreed(self._tick, self._stop_requested())

    def _settle(self, pending, window: Window, keep: int) -> None:
        """Takes in the metrics of all steps but the last few, and ends the run after too many bad ones."""
        while len(pending) > keep:
            step, metrics = pending.popleft()
            values = {name: float(value) for name, value in parallel.gather(metrics).items()}
            window.add(values)
            if values["skipped_in_row"] >= self.config.nonfinite_limit:
                raise TrainingError(
                    f"{int(values['skipped_in_row'])} steps in a row up to step {step} had a loss or "
                    f"gradient that is not finite (config.nonfinite_limit); lower "
                    f"config.optimizer.learning_rate or train in float32"
                )

    def _report(self, step: int, window: Window, clock: Clock) -> None:
        values = window.take()
        applied = max(step - 1 - int(values["skipped"]), 0)
        values["learning_rate"] = float(self.schedule(applied)) * float(
            parallel.gather(self.state.rate_scale)
        )
        rates = clock.lap(step)
        self.log.scalars("train", step, values | {k: rates[k] for k in rates if k != "seconds_left"})
        text = f"step {step}/{self.total_steps}  {describe(values)}  rate {values['learning_rate']:.2e}"
        if values["skipped"]:
            text += f"  skipped {int(values['skipped'])}"
        if rates:
            speed = f"{rates['steps_per_second']:.3g} steps/s, {rates['images_per_second']:.3g} images/s"
            text += f" | {speed}, {duration(rates['seconds_left'])} left"
        self.log.text(text)

    def _evaluate(self, step: int) -> bool:
        """Evaluates, updates early stopping and the best weights; False when it was interrupted."""
        config, mesh = self.config, self.mesh
        if not len(self.data.validation):
            self.last_evaluated = step
            self._export(step, math.nan)  # without a measure the latest weights are the best
            return True
        started = time.monotonic()
        size = -(-config.eval.batch_size // mesh.size) * mesh.size
        state = self.state
        outcome = evaluate(
            lambda batch: self.eval_step(state.eval_params, state.batch_stats, self.frozen, batch),
            whole_image_batches(self.data.validation, size, config.eval.pad_to, config.model.scale),
            mesh,
            config.eval.pictures,
            self._should_stop,
        )
        if outcome is None:
            return False
        means, pictures = outcome
        metric = config.early_stopping.metric
        if metric not in means:
            raise ConfigError(
                f"config.early_stopping.metric={metric!r} is not one of {', '.join(sorted(means))}"
            )
        self.stopping = self.stopping.update(step, means[metric])
        self.last_evaluated = step
        self._reduce_on_plateau(step, means[metric])
        best = self.stopping.best_step == step
        means["seconds"] = time.monotonic() - started
        self.log.scalars("validation", step, means)
        self.log.pictures(step, pictures)
        note = "  (best)" if best else ""
        self.log.text(f"validation at step {step}  {describe(means)}  {means['seconds']:.1f} s{note}")
        if best:
            self._export(step, means[metric])
        return True

    def _reduce_on_plateau(self, step: int, value: float) -> None:
        self.plateau = self.plateau.update(step, value)
        if self.plateau.should_stop:
            self.plateau = dataclasses.replace(self.plateau, misses=0)
            scale = np.float32(parallel.gather(self.state.rate_scale)) * self.config.optimizer.plateau_factor
            rate_scale = parallel.put_replicated(np.float32(scale), self.mesh)
            self.state = self.state.replace(rate_scale=rate_scale)

    def _export(self, step: int, value: float) -> None:
        if not parallel.is_first_process():
            return
        metadata = {
            "step": str(step),
            self.config.early_stopping.metric: repr(value),
            "stage": self.stage.name,
        }
        if self.terms:
            metadata["terms"] = self.terms
        for name, variables in exported_variables(self.state).items():
            file = "best.safetensors" if len(self.stage.networks) == 1 else f"best_{name}.safetensors"
            weights.save_safetensors(self.folder / file, name, jax.device_get(variables), metadata)

    def _save(self, step: int) -> None:
        if not parallel.is_first_process():
            return
        meta = {
            "stage": self.stage.name,
            "config": flatten(self.config),
            "data": self.data.fingerprint,
            "early_stopping": self.stopping.state(),
            "plateau": self.plateau.state(),
            "last_evaluated": self.last_evaluated,
        }
        self.checkpoints.save(step, to_items(self.state), meta)

    def _finish(self, step: int, interrupted: bool) -> Result:
        stopped_early = not interrupted and step < self.total_steps
        result = Result(
            step=step,
            best_step=self.stopping.best_step,
            best=self.stopping.best,
            interrupted=interrupted,
            stopped_early=stopped_early,
            skipped=int(parallel.gather(self.state.skipped)),
        )
        if parallel.is_first_process():
            self.checkpoints.close()
            names = dict.fromkeys(
                ("loss", self.config.early_stopping.metric, "psnr", "ssim", "ssim_infrared")
            )
            write_curves(self.folder, read_metrics(self.folder), list(names))
        how = "interrupted" if interrupted else "stopped early" if stopped_early else "done"
        best = (
            f"; best {self.config.early_stopping.metric} {result.best:.6g} at step {result.best_step}"
            if result.best is not None
            else ""
        )
        self.log.text(f"{how} at step {step}{best}; {result.skipped} steps skipped")
        return result
