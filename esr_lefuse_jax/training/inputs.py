"""What the loop asks of the data, and the way from a config to it."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from ml_collections import ConfigDict

from esr_lefuse_jax.training.evaluation import Batch, Example


class TrainingData(Protocol):
    """The data of one run, as one process sees it.

    Attributes:
        examples: training examples of an epoch, over all processes.
        validation: whole images, the same on every process; see `stages` for the names.
        fingerprint: changes when the list of files does.
        needs_teacher: whether there are examples whose reference the teacher must make.
    """

    examples: int
    validation: Sequence[Example]
    fingerprint: str
    needs_teacher: bool

    def batches(self, step: int) -> Iterator[Batch]:
        """This process's part of every batch from the given step on; the same for a given step, always."""
        ...
