"""Training objectives: pure functions that give one value for each example.

Contract: images (N, H, W, C) float32 in [0, 1]. Every term returns (N,) values; `totals` turns them into a
    sum and a
count, so that padded examples never enter a mean. An optional mask (N, H, W, 1) of zeros and ones does the
same for padded pixels.
"""

from esr_lefuse_jax.losses.objectives import fusion_objective, super_resolution_objective, weighted_sum
from esr_lefuse_jax.losses.terms import totals

__all__ = ["fusion_objective", "super_resolution_objective", "totals", "weighted_sum"]
