"""JAX's persistent compilation cache, so that only the first run on a machine compiles."""

import os
from pathlib import Path

import jax


def enable(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Turns the cache on; a folder that JAX was told otherwise (JAX_COMPILATION_CACHE_DIR) stays.

    Args:
        folder: where to keep compiled programs; by default below the user's cache folder.

    Returns:
        The folder, or None when it cannot be written to: then every process compiles for itself.
    """
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen:
        _keep_small_programs()
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # A program for the CPU is split for the cores that it was compiled on, and JAX does not tell those apart: one that
    # a job of a single core left behind would run on a single core for good.
    path = Path(folder) if folder else base / "esr_lefuse_jax" / f"xla-{_usable_cores()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    _keep_small_programs()
    return path


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_small_programs() -> None:
    """Every program of a folder run counts, dozens of small ones make up its start; limits in the environment stay."""
    for option, limit in (("min_compile_time_secs", 0.0), ("min_entry_size_bytes", -1)):
        name = f"jax_persistent_cache_{option}"
        if name.upper() not in os.environ:
            jax.config.update(name, limit)
