"""The pipeline as a Python user calls it: layouts, types, sizes, options, errors, and how often it compiles."""

import logging
import os
import shutil

import jax
import networks
import numpy as np
import pytest

import esr_lefuse_jax
from esr_lefuse_jax.errors import CheckpointError, ConfigError, ImageError, OutputError
from esr_lefuse_jax.image_writing import quantise
from esr_lefuse_jax.inference import compilation_cache
from esr_lefuse_jax.inference.canvas import Canvases
from esr_lefuse_jax.inference.memory import Plan, plan_enlargement, plan_fusion
from esr_lefuse_jax.inference.pipeline import Pipeline
from esr_lefuse_jax.inference.streaming import run_pass
from esr_lefuse_jax.weights import save_orbax, save_pth, save_safetensors

LIMITS = ("compile_time_secs", "entry_size_bytes")


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(networks.variables("fusion"), networks.variables("sr"))


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (24, 40, 3), np.uint8), rng.integers(0, 256, (24, 40), np.uint8)


@pytest.fixture(scope="module")
def result(pipeline, pair):
    return pipeline(*pair)


def test_layouts_and_types(pipeline, pair, result):
    visible, infrared = pair
    assert result.fused.shape == (24, 40, 3)
    assert result.hr.shape == (96, 160, 3)
    assert result.fused.dtype == result.hr.dtype == np.float32
    assert 0 <= result.hr.min() <= result.hr.max() <= 1
    as_float = pipeline(visible.astype(np.float32) / 255, infrared[..., None].astype(np.float64) / 255)
    np.testing.assert_allclose(as_float.hr, result.hr, atol=1e-5)
    batch = pipeline(np.stack([visible] * 2), np.stack([infrared[..., None]] * 2))
    assert batch.hr.shape == (2, 96, 160, 3)
    np.testing.assert_allclose(batch.hr[1], result.hr, atol=5e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (13, 19)], ids=str)
def test_any_size_gives_exactly_four_times_it(size):
    rng = np.random.default_rng(0)
    shared = Pipeline(networks.variables("fusion"), networks.variables("sr"))
    shared.canvases = Canvases(waste=1.0, shapes=[(24, 40)])
    visible, infrared = rng.random((*size, 3), np.float32), rng.random(size, np.float32)
    out = shared(visible, infrared)
    assert out.fused.shape == (*size, 3)
    assert out.hr.shape == (4 * size[0], 4 * size[1], 3)
    assert np.isfinite(out.hr).all()


def test_a_folder_of_mixed_sizes_compiles_a_few_times(pipeline, caplog):
    """After the first image of a padded shape nothing is compiled, whatever sizes follow."""
    shared = Pipeline(networks.variables("fusion"), networks.variables("sr"))
    shared.prepare_for([(24, 40), (23, 39), (22, 40), (24, 37)])
    assert shared.canvases.shapes == [(24, 40)]
    rng = np.random.default_rng(1)
    shared(rng.random((24, 40, 3), np.float32), rng.random((24, 40), np.float32))
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        for size in [(23, 39), (22, 40), (24, 37), (24, 40)]:
            shared(rng.random((*size, 3), np.float32), rng.random(size, np.float32))
    compiled = [record.message for record in caplog.records if "Finished XLA compilation" in record.message]
    assert not compiled, compiled


def test_padding_does_not_show(pair, result):
    visible, infrared = pair
    roomy = Pipeline(networks.variables("fusion"), networks.variables("sr"))
    roomy.canvases = Canvases(waste=1.0, shapes=[(32, 48)])
    networks.assert_parity(roomy(visible, infrared).hr, result.hr)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_is_close(pair, result, dtype):
    low = Pipeline(networks.variables("fusion"), networks.variables("sr"), dtype=dtype)(*pair)
    assert low.hr.dtype == np.float32
    assert np.abs(low.fused - result.fused).mean() < 0.02
    assert np.abs(low.hr - result.hr).mean() < 0.02
    assert np.abs(low.hr - result.hr).max() > 0  # really another arithmetic


def test_gray_has_no_colour(pair):
    out = Pipeline(networks.variables("fusion"), networks.variables("sr"), gray=True)(*pair)
    assert np.ptp(out.fused, axis=-1).max() == 0
    assert np.ptp(out.hr, axis=-1).max() == 0


def test_bad_arrays_are_refused(pipeline):
    good, thermal = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32)
    for visible, infrared, words in (
        (good, thermal[:7], "sizes must agree"),
        (good[..., :2], thermal, "needs"),
        (good + 2, thermal, "from 2 to 2"),
        (good * np.nan, thermal, "finite"),
        (good.astype(np.int32), thermal, "int32"),
        (good[:0], thermal[:0], "shape"),
        (thermal, thermal, "visible image of shape"),
    ):
        with pytest.raises(ImageError, match=words):
            pipeline(visible, infrared)


def test_bad_options_are_refused():
    for options, words in (({"ensemble": "x5"}, "x5"), ({"dtype": "int8"}, "int8")):
        with pytest.raises(ConfigError, match=words):
            Pipeline(networks.variables("fusion"), **options)
    only_fusion = Pipeline(networks.variables("fusion"))
    with pytest.raises(ConfigError, match="no super-resolution"):
        only_fusion.enlarge(np.zeros((4, 4, 3), np.float32))


def test_load_takes_every_format_alike(tmp_path, pair, result):
    save_pth(tmp_path / "fusion.pth", "fusion", networks.variables("fusion"))
    save_orbax(tmp_path / "sr", "sr", networks.variables("sr"))
    out = esr_lefuse_jax.load(tmp_path / "fusion.pth", tmp_path / "sr", scale=4)(*pair)
    np.testing.assert_array_equal(out.hr, result.hr)
    save_safetensors(tmp_path / "fusion.safetensors", "fusion", networks.variables("fusion"))
    fused = esr_lefuse_jax.load(tmp_path / "fusion.safetensors", fusion_only=True)(*pair)
    assert fused.hr is None
    np.testing.assert_array_equal(fused.fused, result.fused)


def test_load_refuses_another_scale_and_swapped_files(tmp_path):
    save_safetensors(tmp_path / "f.safetensors", "fusion", networks.variables("fusion"))
    save_safetensors(tmp_path / "s.safetensors", "sr", networks.variables("sr"))
    with pytest.raises(ConfigError, match="enlarge 4 times, not 2"):
        esr_lefuse_jax.load(tmp_path / "f.safetensors", tmp_path / "s.safetensors", scale=2)
    with pytest.raises(CheckpointError, match=r"s\.safetensors"):
        esr_lefuse_jax.load(tmp_path / "s.safetensors", tmp_path / "f.safetensors")


@pytest.mark.parametrize("chosen", [True, False])
def test_the_cache_keeps_small_programs_too(monkeypatch, tmp_path, chosen):
    """In the package's own folder and in one that the user told JAX of; a limit in the environment stays."""
    names = ("jax_compilation_cache_dir", *(f"jax_persistent_cache_min_{n}" for n in LIMITS))
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    try:
        for name, value in zip(names, (str(tmp_path) if chosen else None, 0.5, 77), strict=True):
            jax.config.update(name, value)
        folder = compilation_cache.enable()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert folder == (tmp_path if chosen else tmp_path / "home" / "esr_lefuse_jax" / f"xla-{cores}")
        assert jax.config.jax_compilation_cache_dir == str(folder)
        assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.5
        monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
        compilation_cache.enable()
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_canvases_balance_padding_and_compilation():
    canvases = Canvases()
    canvases.plan([(480, 640), (476, 636), (1024, 1280), (100, 100)])
    assert canvases.shapes == [(1024, 1280), (480, 640), (104, 104)]
    assert canvases.fit(470, 640) == (480, 640)
    assert canvases.fit(99, 97) == (104, 104)
    assert canvases.fit(1, 1) == (16, 16)


def test_less_memory_means_lower_strips():
    device = jax.devices()[0]
    strips = [
        plan_enlargement(1, (1024, 1280), 4, 4, memory, device).strip
        for memory in (1 << 30, 2 << 30, 16 << 30)
    ]
    assert strips == sorted(strips)
    assert strips[0] == 8
    assert plan_enlargement(1, (16, 16), 4, 4, 1, device) == Plan(8, on_disk=True)
    # Wide images stay in memory where there is memory: only the height of their strips is limited.
    for plan in (
        plan_fusion(1, (1080, 4096), 4, 64 << 30, device),
        plan_enlargement(1, (1080, 4096), 4, 4, 64 << 30, device),
    ):
        assert plan == Plan(8)


def test_buffers_kept_for_the_next_image_change_nothing(pair, monkeypatch):
    """A smaller image after a larger one, and any image after one that gave NaN or failed, as if it were the first."""
    # Enough memory for strips of eight rows and no more: a strip then reads rows that the image before wrote.
    pipeline = Pipeline(networks.variables("fusion"), networks.variables("sr"), max_memory=2_000_000)
    pipeline.canvases = Canvases(waste=1.0, shapes=[(24, 40)])
    visible, infrared = pair
    first = pipeline.fuse(visible, infrared)
    ((plan, planes),) = pipeline._kept.values()
    assert plan == Plan(8)
    programs = run_pass._cache_size()
    small = visible[:13, :19], infrared[:13, :19]
    after_larger = pipeline.fuse(*small)
    assert [kept for _, kept in pipeline._kept.values()] == [planes]
    assert run_pass._cache_size() == programs
    pipeline._kept = {}
    np.testing.assert_array_equal(after_larger, pipeline.fuse(*small))

    weights = pipeline._fusion
    broken = jax.tree.map(lambda leaf: leaf * np.nan, weights)
    pipeline._fusion = broken
    assert not np.isfinite(pipeline.fuse(visible, infrared)).any()
    pipeline._fusion = weights
    np.testing.assert_array_equal(pipeline.fuse(visible, infrared), first)

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        pipeline._fusion = broken
        patch.setattr("esr_lefuse_jax.inference.pipeline._recolour", fail)
        with pytest.raises(RuntimeError):
            pipeline.fuse(visible, infrared)
    pipeline._fusion = weights
    np.testing.assert_array_equal(pipeline.fuse(visible, infrared), first)

    pipeline.enlarge(first)
    assert not pipeline._kept  # stage 2 has the memory to itself


def test_planes_on_disk_change_nothing(pair, result):
    """A budget of one byte keeps all planes in files."""
    small = Pipeline(networks.variables("fusion"), networks.variables("sr"), max_memory=1)
    out = small(*pair)
    networks.assert_parity(out.fused, result.fused)
    networks.assert_parity(out.hr, result.hr)
    levels = small(*pair, rounding="truncate").hr
    assert levels.dtype == np.uint8
    difference = levels.astype(int) - quantise(out.hr, rounding="truncate")
    assert np.abs(difference).max() <= 1  # a multiplication and addition may be one operation
    assert (difference != 0).mean() < 1e-3


def test_full_disk_is_one_line(pair, monkeypatch):
    usage = type(shutil.disk_usage("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))
    with pytest.raises(OutputError, match="TMPDIR"):
        Pipeline(networks.variables("fusion"), max_memory=1).fuse(*pair)
