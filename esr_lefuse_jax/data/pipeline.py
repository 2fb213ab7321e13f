"""Batches for training and whole pictures for evaluation.

The global batch of a step depends on the files, the seed and the step alone: any number of processes sees the
same batches, each its share, and a run that goes on from a step sees what an unbroken one would have seen.
Workers (threads, or processes when asked) only change how fast the batches come.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from esr_lefuse_jax.data.cache import ByteCache
from esr_lefuse_jax.data.examples import (
    Example,
    LrHrMaker,
    Maker,
    PairMaker,
    PhotoMaker,
    TeacherMaker,
    with_placeholder,
)
from esr_lefuse_jax.data.sources import Records, SourceSpec, Subset, open_records, parse_sources, split_by_key
from esr_lefuse_jax.errors import ConfigError, EsrLefuseError, TrainingError

_LONGEST_RUN = 1 << 40  # examples
_CACHE_BYTES = 1 << 30  # decoded pictures in each reading process
_VALIDATION_BYTES = 1 << 30  # finished validation examples


class _Part:
    """One source with what makes examples of it."""

    def __init__(self, spec: SourceSpec, records: Records, maker: Maker):
        self.spec, self.records, self.maker = spec, records, maker


class _MakeExample(grain.transforms.RandomMap):
    """Reads and crops the example that (part, index) names."""

    def __init__(self, parts: Sequence[_Part], placeholder_scale: int | None):
        self.parts, self.placeholder_scale = parts, placeholder_scale
        self.cache = ByteCache(_CACHE_BYTES)

    def random_map(self, element: tuple[int, int], rng: np.random.Generator) -> Example:
        number, index = element
        part = self.parts[number]
        raw = self.cache.get(element, lambda: part.records.read(index))
        example = part.maker.train(raw, rng)
        if self.placeholder_scale is None:
            return example
        return with_placeholder(example, self.placeholder_scale, part.spec.kind == "teacher")


class _Indices:
    """The indices of one source, tagged with its number."""

    def __init__(self, number: int, count: int):
        self.number, self.count = number, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index) -> tuple[int, int]:
        return self.number, int(index)

    def __repr__(self) -> str:
        return f"_Indices({self.number}, {self.count})"


class WholeExamples:
    """Whole validation examples; made when asked for, then kept as far as memory allows."""

    def __init__(self, parts: Sequence[_Part], limit: int):
        self._parts = list(parts)
        listed = [
            (number, index) for number, part in enumerate(parts) for index in range(len(part.records.keys))
        ]
        # By rounds over the sources, so that a limit keeps some of each.
        listed.sort(key=lambda item: (item[1], item[0]))
        self._items = listed[:limit] if limit else listed
        self._cache = ByteCache(_VALIDATION_BYTES)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, position: int) -> Example:
        number, index = self._items[position]
        part = self._parts[number]

        def make() -> dict[str, np.ndarray]:
            key = part.records.keys[index]
            digest = hashlib.sha256(key.encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            example = part.maker.whole(part.records.read(index), rng)
            # 16 bits hold a picture at half the memory; every call then gives the same rounded values.
            return {name: np.round(array * 65535).astype(np.uint16) for name, array in example.items()}

        stored = self._cache.get((number, index), make)
        return {name: array.astype(np.float32) / np.float32(65535) for name, array in stored.items()}

    def __iter__(self) -> Iterator[Example]:
        return (self[position] for position in range(len(self)))


class TrainingData:
    """Everything that a training run reads.

    Attributes:
        examples: number of training examples.
        validation: whole examples, a sequence.
        needs_teacher: whether some (or all) references are left to the teacher.
        fingerprint: changes with the files, their order and the options that choose examples.
        notes: lines about files that were left out.
    """

    def __init__(
        self,
        *,
        stage: str,
        train: str,
        validation: str | None = None,
        validation_share: float = 0.1,
        crop: int,
        scale: int = 4,
        batch_size: int,
        seed: int = 0,
        augment: bool = True,
        darken: float = 0.0,
        photo_degradation: float = 0.0,
        max_validation: int = 0,
        workers: int = 0,
        threads: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Lists the files of all sources; decodes nothing yet.

        Args:
            stage: `fusion`, `sr` or `joint`.
            train: sources, `[KIND:]PATH[@WEIGHT]` separated by commas; see `sources`.
            validation: sources for evaluation; None takes a share of the training files.
            validation_share: that share, by a hash of the names.
            crop: side of the (input) crop.
            scale: of super-resolution.
            batch_size: examples of one step over all processes.
            seed: of order, crops and everything random.
            augment: flips and quarter turns.
            darken: share of well-lit fusion frames that are darkened.
            photo_degradation: share of photo examples with blur, noise and JPEG.
            max_validation: at most so many whole examples; 0 takes all.
            workers: reading processes; 0 reads in threads of this one.
            threads: reading threads of each process; by the number of cores when None.
            process_index: of this process.
            process_count: processes that share a batch.

        Raises:
            ConfigError, PairError, ImageError: sources that cannot be used.
        """
        if batch_size % process_count:
            raise ConfigError(f"batch_size={batch_size} is not a multiple of the {process_count} processes")
        self._stage, self._scale, self._crop, self._augment = stage, scale, crop, augment
        self._darken, self._photo_degradation = darken, photo_degradation
        self._batch_size, self._seed = batch_size, seed
        cores = os.cpu_count() or 1
        self._workers, self._threads = workers, threads or min(16, max(2, cores // max(1, workers)))
        self._process_index, self._process_count = process_index, process_count
        self.notes: list[str] = []

        specs = parse_sources(train, stage)
        opened = [(spec, self._open(spec, for_validation=False)) for spec in specs]
        if validation:
            held_out = [
                self._part(spec, self._open(spec, for_validation=True))
                for spec in parse_sources(validation, stage)
            ]
            parts = [self._part(spec, records) for spec, records in opened]
        else:
            parts, held_out = [], []
            for spec, records in opened:
                training, evaluation = split_by_key(records.keys, validation_share)
                parts.append(self._part(spec, Subset(records, training)))
                held_out.append(self._part(spec, Subset(records, evaluation)))
        self._parts = parts
        kinds = {part.spec.kind for part in parts}
        self._placeholder_scale = scale if "teacher" in kinds and len(kinds) > 1 else None
        self.examples = sum(len(part.records.keys) for part in parts)
        self.validation = WholeExamples(held_out, max_validation)
        self.needs_teacher = any(part.spec.kind == "teacher" for part in parts + held_out)
        self.fingerprint = self._fingerprint(held_out)

    def __enter__(self) -> "TrainingData":
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def _open(self, spec: SourceSpec, for_validation: bool) -> Records:
        records = open_records(spec, for_validation=for_validation, scale=self._scale)
        self.notes += getattr(records, "problems", [])
        return records

    def _part(self, spec: SourceSpec, records: Records) -> _Part:
        crop, scale, augment = self._crop, self._scale, self._augment
        maker: Maker
        if spec.kind == "pairs":
            maker = PairMaker(crop, augment=augment, darken_share=self._darken)
        elif spec.kind == "photo":
            maker = PhotoMaker(crop, scale, augment=augment, degraded_share=self._photo_degradation)
        elif spec.kind == "self":
            maker = PhotoMaker(crop, scale, augment=augment)
        elif spec.kind == "teacher":
            maker = TeacherMaker(crop, scale, augment=augment)
        else:
            maker = LrHrMaker(crop, scale, augment=augment)
        return _Part(spec, records, maker)

    def _fingerprint(self, held_out: Sequence[_Part]) -> str:
        listed = [
            [[part.spec.kind, part.spec.weight, list(part.records.keys)] for part in parts]
            for parts in (self._parts, held_out)
        ]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def _dataset(self) -> grain.MapDataset:
        """Examples without end, in the order of the whole run."""
        parts = [
            grain.MapDataset.source(_Indices(number, len(part.records.keys)))
            .seed(_seed(self._seed, number))
            .shuffle()
            .repeat()
            for number, part in enumerate(self._parts)
        ]
        # Weights count sources, not files: a small folder may weigh as much as a large one.
        mixed = parts[0]
        if len(parts) > 1:
            mixed = grain.MapDataset.mix(parts, [part.spec.weight for part in self._parts])
        make = _MakeExample(self._parts, self._placeholder_scale)
        # An endless set has the length sys.maxsize, which overflows in Grain's own arithmetic.
        return mixed[:_LONGEST_RUN].seed(_seed(self._seed, len(parts))).random_map(make)

    def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of the batches from a step on, without end.

        Raises:
            ImageError: a file cannot be decoded; the line names it.
            TrainingError: the reading processes died.
        """
        own = self._dataset()[self._process_index :: self._process_count]
        batched = own.batch(self._batch_size // self._process_count)[start_step:]
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * self._threads)
        dataset = batched.to_iter_dataset(options)
        if self._workers:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # grain's workers ask absl, which a library user never started
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
        return _named_errors(iter(dataset))


def make_train_iterator(start_step: int = 0, **options: Any) -> Iterator[dict[str, np.ndarray]]:
    """Batches from a step on; options as for `TrainingData`."""
    return TrainingData(**options).batches(start_step)


def _named_errors(batches: Iterator) -> Iterator:
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except EsrLefuseError as error:
            # Grain appends lines of its own to the message; ours is the first.
            raise type(error)(str(error).splitlines()[0]) from error
        except Exception as error:  # whatever Grain wraps the death of a reading process in
            reason = " ".join(str(error).split())[:300]
            raise TrainingError(f"reading training data failed: {type(error).__name__}: {reason}") from error
        yield batch


def _seed(seed: int, salt: int) -> int:
    """A seed for one of several generators; Grain takes 32 bits."""
    return int(np.random.SeedSequence([seed, salt]).generate_state(1)[0])
