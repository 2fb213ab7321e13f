"""Set-up of every test run: CPU, four virtual devices, and one compilation cache for the whole run."""

import os
import pathlib
import tempfile

# Before jax is imported anywhere; subprocesses of the tests inherit all of it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    ).strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="esr_lefuse_test_cache_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import numpy as np
import pytest

DATA = pathlib.Path(__file__).parent / "data"
REAL_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Outputs of the original PyTorch models for the formula weights (arrays are NCHW)."""
    with np.load(DATA / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """Folder of real pairs beside the repository, where there is one."""
    if not REAL_DATA.is_dir():
        pytest.skip("no folder of real image pairs beside the repository")
    return REAL_DATA
