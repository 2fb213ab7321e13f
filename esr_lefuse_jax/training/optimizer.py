"""Adam with clipping and a schedule, the moving average of parameters, and the float16 loss scale."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict


def learning_rate_schedule(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """Learning rate by number of updates: linear warm-up, then constant or a cosine to `final_share`.

    Args:
        config: the `optimizer` part of the config.
        total_steps: steps of the whole run, where the cosine ends.
    """
    rate, warmup = config.learning_rate, int(config.warmup_steps)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(total_steps - warmup, 1), alpha=config.final_share)
    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    # The first step already moves: 1/warmup of the rate, not 0.
    return optax.join_schedules(
        [optax.linear_schedule(rate / warmup, rate, max(warmup - 1, 1)), after], [warmup]
    )


def make_optimizer(config: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, ICLR 2015) behind a clip of the global gradient norm."""
    schedule = learning_rate_schedule(config, total_steps)
    adam = optax.adam(schedule, b1=config.b1, b2=config.b2, eps=config.epsilon)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam) if config.clip_norm else adam


def update_average(average, params, step: jax.Array, decay: float):
    """Exponential moving average of parameters; it forgets faster at first, lest the start linger."""
    keep = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, average, params)


class LossScale(struct.PyTreeNode):
    """Dynamic loss scale for float16: halved when a gradient overflows, doubled after a run of good steps.

    flax's `DynamicScale` does the same around `value_and_grad`; here the scale stands apart, so that the
    gradients of several micro-batches add up before they are judged.

    Attributes:
        scale: what the loss is multiplied by.
        good_steps: steps since the last change.
    """

    scale: jax.Array
    good_steps: jax.Array
    growth_interval: int = struct.field(pytree_node=False, default=2000)

    @classmethod
    def create(cls, initial: float = 2.0**15) -> "LossScale":
        """A scale that has seen no step."""
        return cls(jnp.asarray(initial, jnp.float32), jnp.zeros((), jnp.int32))

    def update(self, finite: jax.Array) -> "LossScale":
        """The scale after a step whose gradients were, or were not, all finite."""
        good_steps = jnp.where(finite, self.good_steps + 1, 0)
        grow = good_steps >= self.growth_interval
        scale = jnp.where(finite, jnp.where(grow, self.scale * 2, self.scale), self.scale / 2)
        return self.replace(scale=jnp.clip(scale, 1.0, 2.0**24), good_steps=jnp.where(grow, 0, good_steps))
