"""The config files: each valid, documented, complete, and with the published figures where it claims them."""

import importlib.util
import pathlib
import sys

import pytest

from esr_lefuse_jax.config import changed_on_resume, default_config, flatten, validate
from esr_lefuse_jax.errors import ConfigError, EsrLefuseError

FILES = sorted((pathlib.Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_file(path):
    module = load(path)
    config = module.get_config()
    config.data.train = "folder"
    validate(config)
    assert config.stage in path.stem or path.stem == "smoke"
    for word in (f"--config=configs/{path.name}", "--workdir=runs/", "Cost:", "Result:"):
        assert word in module.__doc__, f"the docstring lacks {word!r}"
    # Overrides only: what equals the default must not be repeated, except where the published recipe is spelled out.
    if path.stem != "sr":
        assert flatten(config) != flatten(default_config(config.stage))


def test_all_are_here():
    assert [path.stem for path in FILES] == ["fusion", "joint", "smoke", "sr", "sr_photo", "sr_teacher"]


def test_the_best_is_chosen_by_what_is_trained():
    """The perceptual term is nearly all of the sr objective; validation without it would prefer the start."""
    for stage in ("sr", "joint"):
        assert default_config(stage).eval.perceptual


def test_sr_is_the_published_recipe():
    config = load(next(path for path in FILES if path.stem == "sr")).get_config()
    assert config.optimizer.learning_rate == 2e-4
    assert (config.batch_size, config.epochs, config.early_stopping.patience) == (4, 100, 10)
    assert config.precision != "float32"
    assert dict(config.loss.sr.items()) == {"l1": 1.0, "perceptual": 0.3, "color": 0.15}
    assert config.model.scale == 4


def test_every_option_has_a_value_of_the_type_the_command_line_expects():
    for stage in ("fusion", "sr", "joint"):
        config = default_config(stage)
        for key, value in flatten(config).items():
            assert value is None or isinstance(value, bool | int | float | str), key


def test_what_may_change_on_resume():
    config = default_config("sr")
    saved = flatten(config)
    config.log.every_steps = 7
    config.checkpoint.keep_latest = 5
    config.parallel.devices = 1
    assert changed_on_resume(config, saved) == []
    config.data.crop = 64
    assert changed_on_resume(config, saved) == ["data.crop: 48 -> 64"]
    config.data.crop, config.seed = 48, 1
    # Options that the run's version did not have: they had their defaults.
    del saved["seed"], saved["eval.perceptual"]
    assert changed_on_resume(config, saved) == ["seed: 0 -> 1"]


@pytest.mark.parametrize("stage", ["fusion", "sr", "joint"])
def test_all_errors_are_one_line(stage):
    config = default_config(stage)
    config.data.train = "folder"
    config.unlock()
    config.data.cropp = 3
    with pytest.raises(EsrLefuseError, match=r"^config.data.cropp is not an option") as caught:
        validate(config)
    assert "\n" not in str(caught.value)
    del config.data["cropp"]
    del config["loss"]
    with pytest.raises(ConfigError, match=r"^config.loss.* is missing"):
        validate(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=nowhere.py"], "--config=nowhere.py: no such file"),
        (["--config", "nowhere.py"], "--config=nowhere.py: no such file"),
        ([f"--config={FILES[0]}"], "--workdir is missing"),
        ([f"--config={FILES[0]}", "--workdir=x", "--config.bogus=1"], "bogus': no such option"),
        ([f"--config={FILES[0]}", "--workdir=x", "--config.batch_size=many"], "batch_size=many"),
        ([f"--config={FILES[0]}", "--workdir=x", "--config.batch_size=0"], "must be a number at least 1"),
        ([f"--config={FILES[0]}", "--workdir=x"], "config.data.train is not set"),
        ([f"--config={FILES[0]}", "--workdir=x", "more"], "'more' is not a flag"),
        ([f"--config={FILES[0]}", "--workdir=x", "--bogus"], "Unknown command line flag 'bogus'"),
        (
            [f"--config={FILES[0]}", "--workdir=x", "--config.data.train=a", "--process_id=1"],
            "give all three",
        ),
        ([f"--config={__file__}", "--workdir=x"], "get_config"),
    ],
)
def test_flags_that_cannot_be_used_are_answered_in_one_line(arguments, message, capsys):
    from esr_lefuse_jax.cli import main

    sys.modules.pop("config_config", None)  # where ml_collections keeps the last config file
    assert main(["train", *arguments]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_help(capsys):
    from esr_lefuse_jax.cli import main

    assert main(["train", "--help"]) == 0
    assert "--num_processes" in capsys.readouterr().out
