"""The loop on small pictures in memory: what a run leaves, early stopping, resuming, bad steps."""

import json
import math

import jax
import numpy as np
import pytest
from PIL import Image

from esr_lefuse_jax import weights
from esr_lefuse_jax.errors import CheckpointError, ConfigError, TrainingError
from esr_lefuse_jax.training import curves, inputs, loop
from esr_lefuse_jax.training import logging as run_logging
from esr_lefuse_jax.training.checkpointing import Checkpoints
from esr_lefuse_jax.training.evaluation import whole_image_batches
from tests.training_support import LR, open_memory_data, sr_example, tiny_config
from weights_conversion.convert import flatten


@pytest.fixture(autouse=True)
def _memory_data(monkeypatch):
    monkeypatch.setattr(inputs, "open_data", open_memory_data, raising=False)


def losses(folder, split="train"):
    return {line["step"]: line["loss"] for line in run_logging.read_metrics(folder) if line["split"] == split}


def params_in(folder, step):
    restored = Checkpoints(folder / "checkpoints")._read(step)
    return {k.removeprefix("params/"): v for k, v in restored.items["sr"].items() if k.startswith("params/")}


def exported(folder):
    loaded = weights.load_weights(folder / "best.safetensors", "sr")
    return {k.removeprefix("params/"): v for k, v in flatten(loaded.variables).items()}, loaded.metadata


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# A run that learns within seconds: more than the published rate of 2e-4 allows in 30 steps.
FINISHED = {
    "steps": 30,
    "eval.every_steps": 10,
    "optimizer.warmup_steps": 10,
    "optimizer.learning_rate": 2e-3,
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 30 steps, its result, and how often its step was traced."""
    folder = tmp_path_factory.mktemp("finished")
    traces = []
    make = loop.make_train_step

    def counting(*args, **kwargs):
        step = make(*args, **kwargs)

        def traced(*inner):
            traces.append(1)
            return step(*inner)

        return traced

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "open_data", open_memory_data, raising=False)
        patch.setattr(loop, "make_train_step", counting)
        config = tiny_config(**FINISHED)
        result = loop.train_and_evaluate(config, folder)
    return folder, result, len(traces)


def test_losses_fall_and_validation_improves(finished):
    folder, result, _ = finished
    train, validation = losses(folder), losses(folder, "validation")
    assert list(train) == list(range(1, 31))
    assert list(validation) == [0, 10, 20, 30]
    assert np.mean([train[s] for s in range(26, 31)]) < 0.9 * np.mean([train[s] for s in range(1, 6)])
    lines = [line for line in run_logging.read_metrics(folder) if line["split"] == "validation"]
    assert lines[0]["psnr"] == pytest.approx(lines[0]["psnr_bicubic"], abs=1e-3)  # the start is bicubic
    assert lines[-1]["psnr"] > lines[-1]["psnr_bicubic"] + 0.3
    assert result == loop.Result(30, 30, validation[30], False, False, 0)


def test_nothing_is_compiled_twice(finished):
    assert finished[2] == 1


def test_what_a_run_leaves(finished):
    folder, _, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "best.safetensors", "checkpoints", "config.json", "curves.png", "metrics.jsonl", "parameters.txt",
        "pictures",
    }  # fmt: skip
    assert json.loads((folder / "config.json").read_text())["optimizer.learning_rate"] == 2e-3
    assert "sr/rub_0/up/kernel" in (folder / "parameters.txt").read_text()
    assert Image.open(folder / "curves.png").size[0] > 500
    sheets = sorted(path.name for path in (folder / "pictures").iterdir())
    assert sheets == [f"step_{step:08d}.png" for step in (0, 10, 20, 30)]
    first = next(line for line in run_logging.read_metrics(folder) if line["step"] == 5)
    assert {
        "loss",
        "l1",
        "color",
        "gradient_norm",
        "learning_rate",
        "images_per_second",
        "skipped",
    } <= first.keys()


def test_best_weights_and_checkpoints_hold_the_same_parameters(finished):
    folder, _, _ = finished
    best, metadata = exported(folder)
    assert_equal(best, params_in(folder, 30))
    assert (metadata["step"], metadata["stage"], metadata["scale"]) == ("30", "sr", "4")
    from_orbax = weights.load_weights(folder / "checkpoints" / "30" / "sr")
    assert from_orbax.network == "sr"
    assert_equal({k.removeprefix("params/"): v for k, v in flatten(from_orbax.variables).items()}, best)


def test_a_finished_run_is_not_done_again(finished):
    folder, result, _ = finished
    before = (folder / "metrics.jsonl").read_bytes()
    assert loop.train_and_evaluate(tiny_config(**FINISHED), folder) == result
    assert (folder / "metrics.jsonl").read_bytes() == before


def script_evaluations(monkeypatch, values, metric="loss"):
    """Replaces the evaluation by a list of values."""
    left = list(values)
    monkeypatch.setattr(loop, "evaluate", lambda *args: ({metric: left.pop(0)}, []))


def test_early_stopping_stops_at_the_right_evaluation_and_keeps_the_best(tmp_path, monkeypatch):
    script_evaluations(monkeypatch, [0.5, 0.4, math.nan, 0.45, 0.3, math.nan, 0.31, 0.35, 0.2])
    config = tiny_config(**{"steps": 20, "eval.every_steps": 1, "early_stopping.patience": 3})
    result = loop.train_and_evaluate(config, tmp_path)
    assert (result.step, result.best_step, result.best, result.stopped_early) == (7, 4, 0.3, True)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 6, 7]
    best, metadata = exported(tmp_path)
    assert metadata["step"] == "4"
    assert_equal(best, params_in(tmp_path, 4))
    assert any(not np.array_equal(best[name], value) for name, value in params_in(tmp_path, 7).items())
    nan_lines = [line for line in run_logging.read_metrics(tmp_path) if line["loss"] is None]
    assert [line["step"] for line in nan_lines] == [2, 5]
    # Called again, it knows that it is over.
    assert loop.train_and_evaluate(config, tmp_path) == result


def test_larger_is_better_for_psnr(tmp_path, monkeypatch):
    script_evaluations(monkeypatch, [30.0, 31.0, 30.5, 30.0], "psnr")
    changes = {
        "steps": 9,
        "eval.every_steps": 1,
        "early_stopping.patience": 2,
        "early_stopping.metric": "psnr",
    }
    result = loop.train_and_evaluate(tiny_config(**changes), tmp_path)
    assert (result.step, result.best_step, result.best) == (3, 1, 31.0)


def test_the_rate_falls_on_a_plateau(tmp_path, monkeypatch):
    script_evaluations(monkeypatch, [0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6])
    changes = {"eval.every_steps": 1, "optimizer.plateau_patience": 2, "optimizer.plateau_factor": 0.1}
    loop.train_and_evaluate(tiny_config(**changes), tmp_path)
    rates = [line["learning_rate"] for line in run_logging.read_metrics(tmp_path) if line["split"] == "train"]
    np.testing.assert_allclose(rates, [2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6], rtol=1e-5)


def test_an_unknown_metric_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"early_stopping.metric='vif' is not one of .*loss, psnr"):
        loop.train_and_evaluate(tiny_config(**{"early_stopping.metric": "vif"}), tmp_path)


def test_a_bad_step_is_skipped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_BAD_STEPS", "2")
    result = loop.train_and_evaluate(tiny_config(), tmp_path)
    assert (result.step, result.skipped) == (6, 1)
    train = losses(tmp_path)
    assert [step for step, loss in train.items() if loss is None] == [2]
    assert all(np.isfinite(value).all() for value in params_in(tmp_path, 6).values())


def test_bad_steps_in_a_row_end_the_run_with_good_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_BAD_STEPS", "4,5,6,7,8,9")
    config = tiny_config(**{"steps": 20, "nonfinite_limit": 4})
    with pytest.raises(TrainingError, match=r"4 steps in a row up to step 7 .*learning_rate"):
        loop.train_and_evaluate(config, tmp_path)
    steps = Checkpoints(tmp_path / "checkpoints").steps()
    assert steps[-1] == 6
    for step in steps:
        assert all(np.isfinite(value).all() for value in params_in(tmp_path, step).values())
    assert_equal(params_in(tmp_path, 6), params_in(tmp_path, 3))


def test_another_config_or_data_is_refused_unless_accepted(tmp_path):
    loop.train_and_evaluate(tiny_config(steps=3), tmp_path)
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate: 0.0002 -> 0.001; steps: 3 -> 5"):
        loop.train_and_evaluate(tiny_config(**{"steps": 5, "optimizer.learning_rate": 1e-3}), tmp_path)
    with pytest.raises(ConfigError, match="data: the list of files differs"):
        loop.train_and_evaluate(tiny_config(steps=3, seed=1), tmp_path)
    accepted = tiny_config(**{"steps": 5, "log.every_steps": 2, "checkpoint.allow_changes": True})
    assert loop.train_and_evaluate(accepted, tmp_path).step == 5


def test_a_checkpoint_of_another_network_does_not_fit(tmp_path):
    loop.train_and_evaluate(tiny_config(steps=1), tmp_path)
    changed = tiny_config(**{"steps": 1, "model.scale": 2, "checkpoint.allow_changes": True})
    with pytest.raises(CheckpointError, match="upsample_0/kernel is"):
        loop.train_and_evaluate(changed, tmp_path)


def test_a_damaged_checkpoint_costs_one_save_and_changes_no_loss(tmp_path):
    config = {"steps": 6, "eval.every_steps": 2, "checkpoint.allow_changes": True}
    loop.train_and_evaluate(tiny_config(**config), tmp_path / "unbroken")
    loop.train_and_evaluate(tiny_config(**{**config, "steps": 4}), tmp_path / "damaged")
    victim = next(
        p for p in sorted((tmp_path / "damaged/checkpoints/4/sr").rglob("*")) if p.stat().st_size > 10_000
    )
    victim.write_bytes(victim.read_bytes()[:-100])
    loop.train_and_evaluate(tiny_config(**config), tmp_path / "damaged")
    assert losses(tmp_path / "damaged") == losses(tmp_path / "unbroken")
    assert (tmp_path / "damaged" / "checkpoints_damaged" / "4").is_dir()
    assert_equal(params_in(tmp_path / "damaged", 6), params_in(tmp_path / "unbroken", 6))


def test_the_moving_average_is_what_is_evaluated_and_exported(tmp_path):
    loop.train_and_evaluate(tiny_config(**{"optimizer.ema_decay": 0.9, "steps": 3}), tmp_path)
    restored = Checkpoints(tmp_path / "checkpoints")._read(3)
    trained = {
        k.removeprefix("params/sr/"): v
        for k, v in restored.items["train_state"].items()
        if k.startswith("params/")
    }
    best, metadata = exported(tmp_path)
    if metadata["step"] == "3":
        assert_equal(best, params_in(tmp_path, 3))
    assert any(not np.array_equal(trained[name], value) for name, value in params_in(tmp_path, 3).items())
    # And a resumed run goes on with both.
    config = tiny_config(**{"optimizer.ema_decay": 0.9, "steps": 4, "checkpoint.allow_changes": True})
    assert loop.train_and_evaluate(config, tmp_path).step == 4


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_floats_train(tmp_path, precision):
    changes = {"precision": precision, "steps": 12, "eval.every_steps": 12, "optimizer.warmup_steps": 8}
    result = loop.train_and_evaluate(tiny_config(**changes), tmp_path)
    values = [loss for loss in losses(tmp_path).values() if loss is not None]
    assert len(values) >= 10
    assert result.skipped <= 2  # float16 may have to lower its scale first
    assert result.best is not None
    assert all(value.dtype == np.float32 for value in params_in(tmp_path, 12).values())


def test_a_batch_in_parts_gives_the_same_losses(tmp_path):
    whole = tiny_config(**{"steps": 3})
    parts = tiny_config(**{"steps": 3, "optimizer.accumulate": 2, "parallel.devices": 2})
    loop.train_and_evaluate(whole, tmp_path / "whole")
    loop.train_and_evaluate(parts, tmp_path / "parts")
    for step, loss in losses(tmp_path / "whole").items():
        assert losses(tmp_path / "parts")[step] == pytest.approx(loss, rel=1e-5)


def test_evaluation_does_not_depend_on_batches_or_their_padding(tmp_path):
    found = []
    for number, (size, devices) in enumerate(((1, 1), (2, 1), (4, 4))):
        changes = {"steps": 1, "eval.batch_size": size, "parallel.devices": devices, "eval.pictures": 3}
        loop.train_and_evaluate(tiny_config(**changes), tmp_path / f"{number}")
        found.append(losses(tmp_path / f"{number}", "validation")[0])
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


def test_whole_image_batches_group_by_size_and_fill_up():
    examples = [sr_example(i, lr) for i, lr in enumerate((LR, (9, 16), LR, LR))]
    batches = list(whole_image_batches(examples, batch_size=2, pad_to=1, scale=4))
    assert [batch["lr"].shape[:3] for batch in batches] == [(2, 12, 16), (2, 9, 16), (2, 12, 16)]
    assert [batch["valid"].tolist() for batch in batches] == [[1, 1], [1, 0], [1, 0]]
    np.testing.assert_array_equal(batches[0]["lr"][1], examples[2]["lr"])
    padded = list(whole_image_batches(examples, batch_size=4, pad_to=16, scale=4))
    assert [(b["lr"].shape, b["hr"].shape) for b in padded] == [((4, 16, 16, 3), (4, 64, 64, 3))]
    assert padded[0]["mask"].sum(axis=(1, 2, 3)).tolist() == [192, 144, 192, 192]


def test_options_are_checked_before_anything_is_read(tmp_path):
    for key, value, message in (
        ("precision", "float8", r"config.precision='float8' is not one of float32, bfloat16, float16"),
        ("batch_size", 0, r"config.batch_size=0 must be a number at least 1"),
        ("optimizer.ema_decay", 1.0, r"config.optimizer.ema_decay=1.0 must be a number from 0 to 1"),
        ("loss.sr.l1", -1.0, r"config.loss.sr.l1=-1.0"),
        ("data.train", "", r"config.data.train is not set"),
        ("optimizer.accumulate", 3, r"config.batch_size=4 is not a multiple"),
    ):
        with pytest.raises(ConfigError, match=message):
            loop.train_and_evaluate(tiny_config(**{key: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"batch_size=6 is not a multiple of the 4 devices"):
        loop.train_and_evaluate(tiny_config(**{"batch_size": 6}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"only \d+ devices"):
        loop.train_and_evaluate(tiny_config(**{"parallel.devices": 64, "batch_size": 64}), tmp_path / "run")


def test_perceptual_loss_without_weights_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ESR_LEFUSE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="esr-lefuse weights import vgg16"):
        loop.train_and_evaluate(tiny_config(**{"loss.sr.perceptual": 0.3}), tmp_path / "run")


def test_curves_without_matplotlib(tmp_path, monkeypatch):
    def missing(panels):
        raise ImportError

    monkeypatch.setattr(curves, "_with_matplotlib", missing)
    lines = [{"split": "train", "step": s, "loss": 1 / s} for s in range(1, 9)]
    lines += [{"split": "validation", "step": 4, "loss": 0.2, "psnr": None}]
    picture = np.asarray(Image.open(curves.write_curves(tmp_path, lines, ["loss", "psnr"])))
    assert picture.shape == (320, 640, 3)
    for color in curves.COLORS.values():
        assert (picture == color).all(axis=-1).sum() > 20


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    loop.train_and_evaluate(tiny_config(**{"steps": 1, "log.tensorboard": True}), tmp_path)
    events = list((tmp_path / "tensorboard").glob("events.*"))
    assert len(events) == 1
    assert b"validation/psnr" in events[0].read_bytes()


def test_a_cut_off_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"split": "train", "step": 1, "loss": 0.5}\n{"split": "tra')
    assert [line["step"] for line in run_logging.read_metrics(tmp_path)] == [1]


def test_four_devices_are_there():
    """The set-up of the tests: otherwise those on several devices would prove nothing."""
    assert jax.device_count() == 4
