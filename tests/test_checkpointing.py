"""Checkpoints: what is kept, damage of every kind, full disks."""

import contextlib
import resource
import shutil
import signal

import numpy as np
import pytest

from esr_lefuse_jax.errors import CheckpointError, OutputError, TrainingError
from esr_lefuse_jax.training.checkpointing import Checkpoints, checksum, fill, flat_arrays
from esr_lefuse_jax.training.run_lock import run_lock


def items(step, size=300):
    rng = np.random.default_rng(step)
    return {
        "sr": {
            "params/head/kernel": rng.normal(size=(size, 30)).astype(np.float32),
            "params/head/bias": np.ones(3),
        },
        "train_state": {
            "step": np.int32(step),
            "opt_state/0/mu": rng.normal(size=(20, 5)).astype(np.float32),
        },
    }


def save(folder, steps, **options):
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, items(step), {"note": f"after {step}"})
    checkpoints.close()
    return checkpoints


def assert_is(restored, step):
    assert restored.step == step
    assert restored.meta["note"] == f"after {step}"
    for name, flat in items(step).items():
        assert flat.keys() == restored.items[name].keys()
        for path, value in flat.items():
            np.testing.assert_array_equal(restored.items[name][path], value)
            assert restored.items[name][path].dtype == value.dtype


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_comes_back(tmp_path, asynchronous):
    save(tmp_path / "c", [10, 20], asynchronous=asynchronous)
    assert_is(Checkpoints(tmp_path / "c").restore(), 20)


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoints(tmp_path / "c").restore() is None


def test_latest_and_best_are_kept(tmp_path):
    best = {}
    checkpoints = Checkpoints(tmp_path / "c", best_step=lambda: best.get("step"), keep_latest=2)
    for step in (10, 20, 30, 40, 50):
        if step == 20:
            best["step"] = 20
        checkpoints.save(step, items(step), {"note": f"after {step}"})
    checkpoints.close()
    assert checkpoints.steps() == [20, 40, 50]


def test_retention_holds_over_a_restart(tmp_path):
    save(tmp_path / "c", [10, 20, 30], best_step=lambda: 10)
    assert save(tmp_path / "c", [40, 50], best_step=lambda: 10).steps() == [10, 40, 50]


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    checkpoints = save(tmp_path / "c", [10])
    checkpoints.save(10, items(11), {"note": "another"})
    checkpoints.close()
    assert_is(checkpoints.restore(), 10)


def test_sixty_flipped_bits_are_all_found(tmp_path, caplog):
    """Any bit of any file of the latest step: found, set aside, the step before restored, saves go on."""
    save(tmp_path / "good", [10, 20])
    rng = np.random.default_rng(0)
    files = files_of(tmp_path / "good" / "20")
    flips = [files[i % len(files)] for i in range(30)]  # every file at least once, and then by size
    sizes = np.array([path.stat().st_size for path in files], float)
    flips += list(rng.choice(files, 30, p=sizes / sizes.sum()))
    for number, path in enumerate(flips):
        folder = tmp_path / f"run{number}" / "checkpoints"
        shutil.copytree(tmp_path / "good", folder)
        target = folder / path.relative_to(tmp_path / "good")
        data = bytearray(target.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        target.write_bytes(data)
        caplog.clear()
        checkpoints = Checkpoints(folder)
        assert_is(checkpoints.restore(), 10)
        assert "step 20 is damaged" in caplog.text, path
        assert [path.name for path in folder.with_name("checkpoints_damaged").iterdir()] == ["20"]
        if number % 10 == 0:
            checkpoints.save(20, items(20), {"note": "after 20"})
            checkpoints.close()
            assert_is(Checkpoints(folder).restore(), 20)
        shutil.rmtree(folder.parent)


@pytest.mark.parametrize("how", ["empty", "truncate", "delete"])
def test_damaged_files_are_found(tmp_path, how):
    save(tmp_path / "good", [10, 20])
    for number, path in enumerate(files_of(tmp_path / "good" / "20")):
        folder = tmp_path / f"{number}" / "checkpoints"
        shutil.copytree(tmp_path / "good", folder)
        target = folder / path.relative_to(tmp_path / "good")
        if how == "delete":
            target.unlink()
        else:
            target.write_bytes(b"" if how == "empty" else target.read_bytes()[:-1])
        assert_is(Checkpoints(folder).restore(), 10)


def test_a_folder_of_the_right_name_without_a_checkpoint_is_set_aside(tmp_path):
    save(tmp_path / "c", [10])
    (tmp_path / "c" / "30").mkdir()
    assert_is(Checkpoints(tmp_path / "c").restore(), 10)


def test_values_that_differ_from_their_checksum_are_found_behind_intact_files(tmp_path, monkeypatch):
    """The checksum of every array is compared after reading, whatever the files say."""
    save(tmp_path / "c", [10, 20])
    monkeypatch.setattr("esr_lefuse_jax.training.checkpointing._check_files", lambda folder: None)
    from esr_lefuse_jax.training import checkpointing

    read = checkpointing._read_arrays

    def read_one_ulp_off(folder):
        flat = read(folder)
        if folder.parent.name == "20" and folder.name == "sr":
            flat["params/head/kernel"] = np.nextafter(flat["params/head/kernel"], np.float32(9))
        return flat

    monkeypatch.setattr(checkpointing, "_read_arrays", read_one_ulp_off)
    assert_is(Checkpoints(tmp_path / "c").restore(), 10)


def test_all_steps_bad_is_an_error_not_a_fresh_start(tmp_path):
    save(tmp_path / "c", [10, 20])
    for step in ("10", "20"):
        (tmp_path / "c" / step / "checksums.json").write_text("{")
    with pytest.raises(TrainingError, match=r"none of the checkpoints \[10, 20\] is intact"):
        Checkpoints(tmp_path / "c").restore()


def test_a_full_disk_leaves_older_steps_intact(tmp_path):
    checkpoints = save(tmp_path / "c", [10])
    # Writes beyond the limit fail as on a full disk; the signal that comes along would end the process.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(OutputError, match="step 20 could not be saved"), contextlib.closing(checkpoints):
            checkpoints.save(20, items(20, size=30_000), {"note": "after 20"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["10"]
    assert_is(Checkpoints(tmp_path / "c").restore(), 10)


def test_fill_names_what_does_not_fit():
    template = {"a": np.zeros((2, 3), np.float32), "b": {"c": np.zeros(4, np.int32)}}
    flat = flat_arrays(template)
    np.testing.assert_array_equal(fill(template, flat, "x")["b"]["c"], 0)
    bad = {"a": np.zeros((3, 2), np.float32), "z": np.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"x: .*b/c is missing; z is not expected; a is float32\[3, 2\]"
    ):
        fill(template, bad, "x")
    with pytest.raises(CheckpointError, match="a is float64"):
        fill(template, {**flat, "a": np.zeros((2, 3))}, "x")


def test_checksum_sees_values_type_and_shape():
    a = np.arange(6, dtype=np.float32)
    others = [a.reshape(2, 3), a.astype(np.float64), a.view(np.int32), -a, np.nextafter(a, np.float32(9))]
    assert len({checksum(x) for x in [a, *others]}) == 6
    assert checksum(a) == checksum(a.copy())


def test_flat_arrays_are_copies():
    a = np.zeros(3)
    flat = flat_arrays({"a": a})
    a[:] = 1
    assert flat["a"].sum() == 0


def test_one_writer_for_a_run_folder(tmp_path):
    with (
        run_lock(tmp_path / "run"),
        pytest.raises(OutputError, match=r"process \d+ on .* is training here"),
        run_lock(tmp_path / "run"),
    ):
        pass
    with run_lock(tmp_path / "run"):
        pass
