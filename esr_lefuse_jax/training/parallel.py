"""Devices, processes and where arrays live: the only module that names mesh, sharding or distributed.

The form is data parallelism by `jax.jit` over a one-dimensional mesh: batches are split along their first
axis, everything else is replicated, and the compiler places the collectives. The same program runs on one
CPU, several GPUs or a TPU pod; only the mesh differs. `jax.pmap` would need code of its own for batch norm
statistics and for the mean of the loss, and is in maintenance mode, so it is not used.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from esr_lefuse_jax.errors import ConfigError

AXIS = "data"


def initialize(
    num_processes: int | None = None,
    process_id: int | None = None,
    coordinator: str | None = None,
    heartbeat_seconds: int = 60,
) -> None:
    """Joins the other processes of a run, by flags or the environment of SLURM or a TPU pod.

    Does nothing when there is neither.

    Raises:
        ConfigError: flags are incomplete.
    """
    given = [value is not None for value in (num_processes, process_id, coordinator)]
    if any(given) and not all(given):
        raise ConfigError(
            "--num_processes, --process_id and --coordinator (host:port) belong together: give all three"
        )
    if num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise ConfigError(f"--process_id={process_id} must be from 0 to {num_processes - 1}")
    elif not _pod_environment():
        return
    jax.distributed.initialize(
        coordinator, num_processes, process_id, heartbeat_timeout_seconds=int(heartbeat_seconds)
    )


def _pod_environment() -> bool:
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 or len(hosts) > 1


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh over all devices, or the first few (of one process only).

    Raises:
        ConfigError: more devices are asked for than there are, or a part of the devices of several processes.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if count > len(available):
        raise ConfigError(f"config.parallel.devices={count}, but there are only {len(available)} devices")
    if jax.process_count() > 1 and count != len(available):
        raise ConfigError("config.parallel.devices cannot leave out devices of a run with several processes")
    # Auto axes: with Explicit ones, the default, pixel-shuffle reshapes and strided gradients would need
    # annotations.
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=available[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_split(mesh: Mesh) -> NamedSharding:
    """The first axis is divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raises ConfigError unless the devices can share the batch evenly."""
    if batch_size % mesh.size:
        raise ConfigError(f"config.{key}={batch_size} is not a multiple of the {mesh.size} devices")


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's part of a batch."""
    sharding = batch_split(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Copies host arrays, the same on every process, to all devices."""
    sharding = replicated(mesh)

    def put(value: Any) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree)


def gather(tree: Any) -> Any:
    """Host copies of arrays; all processes must call it when some are split over processes."""

    def fetch(value: jax.Array) -> np.ndarray:
        if value.is_fully_replicated:
            return np.asarray(value.addressable_data(0))
        if value.is_fully_addressable:
            return np.asarray(value)
        return multihost_utils.process_allgather(value, tiled=True)

    return jax.tree.map(fetch, tree)


def from_first_process(tree: Any) -> Any:
    """The first process's host arrays on every process; the others give arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def text_from_first_process(text: str) -> str:
    """The first process's text on every process."""
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(from_first_process(np.int32(data.size)))
    # The others' own text may be of any length: only its room matters.
    return (
        from_first_process(np.resize(data, size) if data.size else np.zeros(size, np.uint8))
        .tobytes()
        .decode()
    )


def is_first_process() -> bool:
    """Whether this process writes files and log lines."""
    return jax.process_index() == 0


def process_index() -> int:
    """Number of this process."""
    return jax.process_index()


def process_count() -> int:
    """Number of processes of the run."""
    return jax.process_count()


def stop_agreed(tick: int, local_request: bool) -> bool:
    """Whether the run has been asked to stop (SIGTERM), with one answer on all processes.

    Args:
        tick: a number that grows with every call, the same on every process.
        local_request: what this process's own signal handler has seen; counts only when there is one process.
    """
    if jax.process_count() == 1:
        return local_request
    # The coordination service sees a SIGTERM to any process and names one tick to all of them.
    return multihost_utils.reached_preemption_sync_point(tick)
