"""What the loop asks of the data, and the way from a config to it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ml_collections import ConfigDict

from esr_lefuse_jax.data.pipeline import TrainingData
from esr_lefuse_jax.training import parallel
from esr_lefuse_jax.training.evaluation import Batch, Example


class WholeImages(Protocol):
    """Examples for evaluation, made when asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[Example]:
        """All of them, in the same order every time."""


class RunData(Protocol):
    """The data of one run, as one process sees it."""

    @property
    def examples(self) -> int:
        """Training examples of an epoch, over all processes."""

    @property
    def validation(self) -> WholeImages:
        """Whole images, the same on every process; see `stages` for the names."""

    @property
    def fingerprint(self) -> str:
        """Changes when the list of files does."""

    @property
    def needs_teacher(self) -> bool:
        """Whether there are examples whose reference the teacher must make."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines about files that were left out."""

    def batches(self, step: int, /) -> Iterator[Batch]:
        """This process's part of every batch from the given step on; the same for a given step, always."""


def open_data(config: ConfigDict) -> AbstractContextManager[RunData]:
    """Lists the files that a config names; nothing is decoded yet.

    Raises:
        ConfigError: a source is written wrongly.
        PairError: a folder holds nothing that can be used.
    """
    data = config.data
    return TrainingData(
        stage=config.stage,
        train=data.train,
        validation=data.validation,
        validation_share=data.validation_share,
        crop=data.crop,
        scale=config.model.scale,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=data.augment,
        darken=data.darken,
        photo_degradation=data.photo_degradation,
        max_validation=config.eval.max_images,
        workers=data.workers,
        process_index=parallel.process_index(),
        process_count=parallel.process_count(),
    )
