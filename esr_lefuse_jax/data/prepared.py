"""Reading prepared TFDS sets (array_record) without TensorFlow."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esr_lefuse_jax.errors import PairError

KEYS_FILE = "keys.json"
_INFO = "dataset_info.json"
_DEPTH = 3  # data_dir/name/config/version


def find(path: str | os.PathLike) -> Path | None:
    """The folder of the prepared set at or below `path`, in its highest version; None when there is none."""
    folder = Path(path)
    for depth in range(_DEPTH + 1):
        found = sorted(folder.glob("/".join(["*"] * depth + [_INFO]))) if depth else [folder / _INFO]
        found = [info.parent for info in found if info.is_file()]
        if found and len({info.parent for info in found}) == 1:
            return max(found, key=lambda item: [int(n) if n.isdigit() else -1 for n in item.name.split(".")])
        if found:
            names = ", ".join(sorted({item.parent.name for item in found}))
            raise PairError(f"{path}: holds several prepared sets ({names}): name one of them")
    return None


class Table:
    """Rows of a prepared set: encoded pictures by feature name, and a key.

    Attributes:
        features: names of the features.
        keys: name of each row.
    """

    def __init__(self, folder: Path, *, for_validation: bool = False):
        """Opens the split for training (`train`) or validation (`validation`, `test`, else all).

        Raises:
            PairError: the set is damaged or empty.
        """
        self.folder = folder
        try:
            with open(folder / "features.json", encoding="utf-8") as file:
                self.features = tuple(json.load(file)["featuresDict"]["features"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PairError(f"{folder}: not a readable prepared set ({error}): prepare it again") from error
        self._sources = self._open(for_validation)
        self._starts = [0]
        for _, source in self._sources:
            self._starts.append(self._starts[-1] + len(source))
        if self._starts[-1] == 0:
            raise PairError(f"{folder}: the prepared set is empty")
        self.keys = self._read_keys()

    def _open(self, for_validation: bool) -> list[tuple[str, Any]]:
        # Costs seconds, so only where a prepared set is really read.
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(self.folder)
            splits = [name for name, split in builder.info.splits.items() if split.num_examples]
            order = ("validation", "test") if for_validation else ("train",)
            chosen = next(([name] for name in order if name in splits), splits)
            decoders = {name: tfds.decode.SkipDecoding() for name in self.features if name != "key"}
            return [(name, builder.as_data_source(name, decoders=decoders)) for name in chosen]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise PairError(
                f"{self.folder}: not a readable prepared set ({reason}): prepare it again"
            ) from error

    def _read_keys(self) -> list[str]:
        # The list beside the set spares reading every picture for its key.
        listed = self.folder / KEYS_FILE
        if listed.is_file():
            by_split = json.loads(listed.read_text(encoding="utf-8"))
            keys = [key for split, _ in self._sources for key in by_split.get(split, [])]
            if len(keys) == self._starts[-1]:
                return keys
        return [self.row(index)["key"].decode() for index in range(self._starts[-1])]

    def row(self, index: int) -> Mapping[str, Any]:
        """The features of one row; pictures as encoded bytes."""
        part = max(i for i, start in enumerate(self._starts[:-1]) if start <= index)
        return self._sources[part][1][index - self._starts[part]]

    def name(self, index: int) -> str:
        """What an error calls a row."""
        return f"{self.folder}: example {self.keys[index]}"
