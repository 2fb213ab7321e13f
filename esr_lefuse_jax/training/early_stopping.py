"""Which evaluation is the best so far, and whether to go on.

The one place that decides what "best" means: checkpoints keep the step named here. (flax's own early stopping
takes no maximised metrics, and a NaN as its first value blocks it for ever.)
"""

import dataclasses
import math
from typing import Any

HIGHER_IS_BETTER = frozenset({"psnr", "ssim", "ssim_enhanced", "ssim_infrared", "lr_consistency"})


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """State of early stopping; immutable, every evaluation gives a new one.

    Attributes:
        patience: evaluations without improvement after which to stop; 0 never stops.
        min_delta: the least change that counts as an improvement.
        maximize: whether larger is better.
        best: best value so far, None before the first finite one.
        best_step: its step.
        misses: evaluations since then.
    """

    patience: int
    min_delta: float = 0.0
    maximize: bool = False
    best: float | None = None
    best_step: int | None = None
    misses: int = 0

    def update(self, step: int, value: float) -> "EarlyStopping":
        """Takes the metric of one evaluation; a value that is not finite is never the best but a miss."""
        if math.isfinite(value) and self._improves(value):
            return dataclasses.replace(self, best=value, best_step=step, misses=0)
        return dataclasses.replace(self, misses=self.misses + 1)

    def _improves(self, value: float) -> bool:
        if self.best is None:
            return True
        gain = value - self.best if self.maximize else self.best - value
        return gain > self.min_delta

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.misses

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; a resumed run takes patience and the like from its config."""
        return {"best": self.best, "best_step": self.best_step, "misses": self.misses}

    def restored(self, state: dict[str, Any]) -> "EarlyStopping":
        """This early stopping with a checkpoint's state."""
        return dataclasses.replace(self, **state)
