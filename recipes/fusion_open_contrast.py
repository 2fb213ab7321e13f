"""Last phase of the fusion weights `open`: the head is widened until contrast on M3SVD is that of the targets.

The L1 distance prefers the median of what may be, so the trained network is a little paler than its targets. Slope
and offset of the last convolution are chosen such that mean and deviation agree again: two numbers, no gradient.
"""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from fusion_open_data import Picture, merge

from esr_lefuse_jax.inference.pipeline import Pipeline

SLOPES, OFFSETS = np.arange(0.9, 1.61, 0.05), np.arange(-0.4, 0.41, 0.05)


def widen(variables: dict[str, Any], slope: float, offset: float) -> dict[str, Any]:
    """Variables of `FusionUNet` whose output is sigmoid(slope * logit + offset)."""
    variables = jax.tree.map(np.array, variables)
    last = variables["params"]["dec_2"]
    last["kernel"] *= np.float32(slope)
    last["bias"] *= np.float32(slope)
    last["bias"] += np.float32(offset)
    return variables


def choose(variables: dict[str, Any], pictures: Iterable[Picture]) -> tuple[float, float]:
    """Slope and offset at which mean and deviation of whole pictures come closest to the targets'."""
    pipeline = Pipeline(variables, None, gray=True)
    logits, targets = [], []
    for y, infrared, enhanced in pictures:
        fused = pipeline.fuse(np.repeat(y[..., None], 3, axis=-1), infrared)[::9, ::9, 0]
        fused = np.clip(fused, 1e-3, 1 - 1e-3)
        logits.append(np.log(fused / (1 - fused)))
        targets.append(merge(enhanced.astype(np.float32) / 255, infrared.astype(np.float32) / 255))

    def distance(slope: float, offset: float) -> float:
        total = 0.0
        for logit, target in zip(logits, targets, strict=True):
            fused = 1 / (1 + np.exp(-slope * logit - offset))
            total += (fused.mean() - target.mean()) ** 2 + (fused.std() - target.std()) ** 2
        return float(total)

    return min(((s, o) for s in SLOPES for o in OFFSETS), key=lambda pair: distance(*pair))
