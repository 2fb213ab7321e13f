"""Checkpoints of a run: the latest ones and the best, saved in the background, with checksums.

A step folder holds one Orbax item for each network (`fusion`, `sr`: the variables that are evaluated and
exported, readable by `weights.load_weights`), `train_state` (all the rest) and `meta` (JSON: options of the
run, early stopping, a checksum of every array). Orbax neither notices flipped bits nor falls back to an older
step; both is done here.

Only the first process writes and reads; the state is the same on all of them.
"""

import json
import logging
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN, PreservationPolicy

from esr_lefuse_jax.errors import CheckpointError, OutputError, TrainingError

SEALS = "checksums.json"
META = "meta"
Flat = dict[str, np.ndarray]

logger = logging.getLogger(__name__)


@dataclass
class Restored:
    """A checkpoint as it was saved: its step, flat arrays by item, and meta data."""

    step: int
    items: dict[str, Flat]
    meta: dict[str, Any]


@dataclass
class KeepBest(PreservationPolicy):
    """Keeps the step that early stopping calls the best.

    Orbax ranks by metrics saved along, where a NaN wins over everything; the best is decided in one place
    instead.
    """

    best_step: Callable[[], int | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each checkpoint."""
        del context
        return [checkpoint.step == self.best_step() for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(
        self,
        folder: Path,
        best_step: Callable[[], int | None] = lambda: None,
        keep_latest: int = 2,
        asynchronous: bool = True,
    ):
        """Opens a folder; nothing is read or made yet.

        Args:
            folder: holds one folder for each step.
            best_step: tells which step to keep however old it is.
            keep_latest: how many of the latest steps to keep.
            asynchronous: whether files are written while training goes on.
        """
        self.folder = folder.absolute()
        self._best_step = best_step
        self._keep_latest = keep_latest
        self._asynchronous = asynchronous
        self._manager: ocp.CheckpointManager | None = None
        self._unsealed: int | None = None

    def steps(self) -> list[int]:
        """Saved steps in rising order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def save(self, step: int, items: Mapping[str, Flat], meta: Mapping[str, Any]) -> None:
        """Saves a step; saving one that is already there does nothing.

        Args:
            step: number of the step.
            items: host arrays by path, for each item; must not be changed afterwards.
            meta: anything JSON can hold.

        Raises:
            OutputError: this or the save before it could not be written; older steps are intact.
        """
        self.wait()
        if step in self.steps():
            return
        meta = {
            **meta,
            "arrays": {name: {k: checksum(v) for k, v in flat.items()} for name, flat in items.items()},
        }
        args = {name: ocp.args.StandardSave(nest(flat)) for name, flat in items.items()}
        args[META] = ocp.args.JsonSave({"content": meta, "checksum": _text_checksum(meta)})
        try:
            self._unsealed = step
            self._open().save(step, args=ocp.args.Composite(**args), force=True)
        except Exception as error:
            raise self._failure(step, error) from error
        if not self._asynchronous:
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
            OutputError: it could not be written; older steps are intact.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if self._unsealed is not None:
                # Orbax adds the time of the commit to its own file last of all, after the other files were
                # sealed.
                folder = self.folder / str(self._unsealed)
                _seal(folder, known=_read_seals(folder))
                self._unsealed = None
        except Exception as error:
            raise self._failure(self._unsealed, error) from error

    def close(self) -> None:
        """Completes the last save and ends the background threads."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                manager, self._manager = self._manager, None
                manager.close()

    def restore(self) -> Restored | None:
        """Reads the latest step that is intact.

        A damaged step is set aside (to `<folder>_damaged`) with a warning, and the one before it is tried.

        Returns:
            None when nothing was ever saved.

        Raises:
            TrainingError: there are checkpoints, but none is intact.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(step)
            except CheckpointError as error:
                logger.warning("checkpoint of step %d is damaged (%s); set aside", step, error)
                self._set_aside(step)
        if steps:
            raise TrainingError(
                f"{self.folder}: none of the checkpoints {steps} is intact; start in another --workdir, or "
                f"copy a good checkpoint back into it"
            )
        return None

    def _read(self, step: int) -> Restored:
        folder = self.folder / str(step)
        _check_files(folder)
        try:
            wrapped = json.loads((folder / META / "metadata").read_text())
            meta, expected = wrapped["content"], wrapped["checksum"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / META}: cannot be read: {error}") from error
        if _text_checksum(meta) != expected:
            raise CheckpointError(f"{folder / META}: does not have the checksum it was saved with")
        items = {}
        for name, checksums in meta["arrays"].items():
            items[name] = _read_arrays(folder / name)
            if items[name].keys() != checksums.keys():
                raise CheckpointError(f"{folder / name}: arrays are missing")
            for path, value in items[name].items():
                if checksum(value) != checksums[path]:
                    raise CheckpointError(
                        f"{folder / name}: {path} does not have the checksum it was saved with"
                    )
        return Restored(step, items, meta)

    def _set_aside(self, step: int) -> None:
        aside = self.folder.with_name(f"{self.folder.name}_damaged")
        aside.mkdir(exist_ok=True)
        target = aside / str(step)
        number = 1
        while target.exists():
            number += 1
            target = aside / f"{step}_{number}"
        (self.folder / str(step)).rename(target)

    def _open(self) -> ocp.CheckpointManager:
        # Opened at the first save, after damaged steps were set aside: Orbax reads what is there, once.
        if self._manager is None:
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy(
                        [LatestN(self._keep_latest), KeepBest(self._best_step)]
                    ),
                    enable_async_checkpointing=True,
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._seal_unfinished),
                    cleanup_tmp_directories=True,
                    lightweight_initialize=True,
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        primary_host=jax.process_index(),
                        active_processes={jax.process_index()},
                        barrier_sync_key_prefix="first_process",
                    ),
                    create=False,
                ),
            )
        return self._manager

    def _seal_unfinished(self) -> None:
        """Adds checksums of all files to a step just before Orbax gives its folder the final name."""
        for folder in self.folder.glob(f"{self._unsealed}.orbax-checkpoint-tmp*"):
            _seal(folder, leave_out=(_COMMIT_FILE,))

    def _failure(self, step: int | None, error: Exception) -> OutputError:
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):
            for _ in range(50):  # other threads of the failed save may still be writing into it
                shutil.rmtree(leftover, ignore_errors=True)
                if not leftover.exists():
                    break
                time.sleep(0.02)
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        self._unsealed = None
        return OutputError(
            f"{self.folder}: step {step} could not be saved ({reason}); older steps are intact: free some "
            f"space and start again to go on from them"
        )


_COMMIT_FILE = "_CHECKPOINT_METADATA"


def flat_arrays(tree: Any) -> Flat:
    """Leaves of any pytree as host arrays by path, copied, so that donated buffers cannot change them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.array(leaf) for path, leaf in leaves}


def fill(template: Any, flat: Flat, where: str) -> Any:
    """A pytree like `template` with the arrays of `flat`.

    Raises:
        CheckpointError: an array is missing, superfluous or of another shape or type.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    problems = [f"{name} is missing" for name in names if name not in flat]
    problems += [f"{name} is not expected" for name in flat if name not in set(names)]
    for name, (_, leaf) in zip(names, paths, strict=True):
        if name in flat and (flat[name].shape != leaf.shape or flat[name].dtype != leaf.dtype):
            found, wanted = flat[name], f"{leaf.dtype}{list(leaf.shape)}"
            problems.append(f"{name} is {found.dtype}{list(found.shape)} instead of {wanted}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{where}: does not fit the config: {'; '.join(problems[:5])}{more}")
    return jax.tree_util.tree_unflatten(structure, [flat[name] for name in names])


def nest(flat: Flat) -> dict[str, Any]:
    """Nested dicts from paths with slashes."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def checksum(array: np.ndarray) -> str:
    """CRC-32 over type, shape and values."""
    array = np.ascontiguousarray(array)
    head = f"{array.dtype.str}{array.shape}"
    return f"{zlib.crc32(array.tobytes(), zlib.crc32(head.encode())):08x}"


def _text_checksum(content: Any) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _read_arrays(folder: Path) -> Flat:
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(folder).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            restored = checkpointer.restore(folder, restore_args=as_numpy)
    except Exception as error:  # a damaged folder surfaces as any exception of Orbax or TensorStore
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{folder}: cannot be read: {reason}") from error
    return flat_arrays(restored)


def _files(folder: Path) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEALS)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _file_checksum(path: Path) -> str:
    return f"{zlib.crc32(path.read_bytes()):08x}"


def _seal(folder: Path, known: Mapping[str, str] | None = None, leave_out: tuple[str, ...] = ()) -> None:
    """Writes the checksums of all files, taking the known ones as they are."""
    known = known or {}
    files = {
        n: known.get(n) or _file_checksum(path) for n, path in _files(folder).items() if n not in leave_out
    }
    temporary = folder / f".{SEALS}"
    temporary.write_text(json.dumps({"files": files, "checksum": _text_checksum(files)}))
    temporary.replace(folder / SEALS)


def _read_seals(folder: Path) -> dict[str, str]:
    try:
        seals = json.loads((folder / SEALS).read_text())
        files, expected = seals["files"], seals["checksum"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / SEALS}: cannot be read: {error}") from error
    if _text_checksum(files) != expected:
        raise CheckpointError(f"{folder / SEALS}: does not have the checksum it was saved with")
    return files


def _check_files(folder: Path) -> None:
    files, found = _read_seals(folder), _files(folder)
    for name, expected in files.items():
        if name not in found or _file_checksum(found[name]) != expected:
            raise CheckpointError(f"{folder / name}: missing or changed since it was saved")
