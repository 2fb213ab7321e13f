"""The training and evaluation steps: pure functions without I/O, to be compiled by the loop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from esr_lefuse_jax.losses import totals
from esr_lefuse_jax.training.optimizer import update_average
from esr_lefuse_jax.training.stages import Batch, Stage, Tree
from esr_lefuse_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Totals = dict[str, tuple[jax.Array, jax.Array]]


def make_train_step(
    stage: Stage, optimizer: optax.GradientTransformation, *, accumulate: int = 1, average_decay: float = 0.0
) -> Callable[[TrainState, Tree, Batch], tuple[TrainState, Metrics]]:
    """One optimisation step.

    A step whose loss or gradient is not finite changes nothing but the counters: parameters, optimizer,
    running statistics and moving average stay as they were.

    Args:
        stage: networks and objective.
        optimizer: from `make_optimizer`.
        accumulate: parts into which the batch is split; gradients are averaged over them.
        average_decay: of the moving average, where the state has one.

    Returns:
        step(state, frozen, batch) -> (state, metrics); the metrics are scalars: `loss`, the terms by name,
        `gradient_norm`, `finite`, `skipped`, `skipped_in_row` and, for float16, `loss_scale`.
    """

    def loss_fn(params: Tree, batch_stats: Tree, frozen: Tree, batch: Batch, scale: jax.Array):
        outcome = stage.run(params, batch_stats, frozen, batch, train=True)
        loss = _mean(outcome.loss)
        means = {"loss": loss, **{name: _mean(value) for name, value in outcome.values.items()}}
        return loss * scale, (means, outcome.batch_stats)

    gradient_fn = jax.grad(loss_fn, has_aux=True)

    def step(state: TrainState, frozen: Tree, batch: Batch) -> tuple[TrainState, Metrics]:
        scale = jnp.ones(()) if state.loss_scale is None else state.loss_scale.scale
        if accumulate == 1:
            grads, (means, batch_stats) = gradient_fn(state.params, state.batch_stats, frozen, batch, scale)
        else:
            # Every accumulate-th example, not contiguous parts: each device then keeps its own examples.
            parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

            def add_part(carry, part):
                grads, stats = carry
                new, (means, stats) = gradient_fn(state.params, stats, frozen, part, scale)
                return (jax.tree.map(jnp.add, grads, new), stats), means

            zeros = jax.tree.map(jnp.zeros_like, state.params)
            (grads, batch_stats), all_means = jax.lax.scan(add_part, (zeros, state.batch_stats), parts)
            means = jax.tree.map(jnp.mean, all_means)
            grads = jax.tree.map(lambda g: g / accumulate, grads)
        grads = jax.tree.map(lambda g: g / scale, grads)

        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(means["loss"]) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: u * state.rate_scale, updates))
        average = state.average
        if average is not None:
            average = update_average(average, params, state.step, average_decay)

        # An overflow of float16 gradients is the loss scale's business as long as the scale can still shrink.
        overflow = jnp.isfinite(means["loss"]) & ~jnp.isfinite(norm) & (scale > 1)
        hard_failures = jnp.where(overflow, state.skipped_in_row, state.skipped_in_row + 1)
        changed = {"params": params, "batch_stats": batch_stats, "opt_state": opt_state, "average": average}
        kept = {name: getattr(state, name) for name in changed}
        new_state = state.replace(
            step=state.step + 1,
            loss_scale=None if state.loss_scale is None else state.loss_scale.update(finite),
            skipped=state.skipped + jnp.where(finite, 0, 1),
            skipped_in_row=jnp.where(finite, 0, hard_failures),
            **jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, kept),
        )
        metrics = means | {
            "gradient_norm": norm,
            "finite": finite,
            "skipped": new_state.skipped,
            "skipped_in_row": new_state.skipped_in_row,
        }
        if state.loss_scale is not None:
            metrics["loss_scale"] = scale
        return new_state, metrics

    return step


def make_eval_step(stage: Stage) -> Callable[[Tree, Tree, Tree, Batch], tuple[Totals, dict[str, Any]]]:
    """One evaluation step.

    Returns:
        step(params, batch_stats, frozen, batch) -> (sums and counts by name, pictures by name); examples
        whose `valid` is zero and pixels whose `mask` is zero enter neither.
    """

    def step(params: Tree, batch_stats: Tree, frozen: Tree, batch: Batch) -> tuple[Totals, dict[str, Any]]:
        outcome = stage.run(params, batch_stats, frozen, batch, train=False)
        values = {"loss": outcome.loss, **outcome.values}
        return {name: totals(value, batch["valid"]) for name, value in values.items()}, outcome.pictures

    return step


def _mean(values: jax.Array) -> jax.Array:
    total, count = totals(values)
    return total / count
