"""`esr-lefuse train`: trains a stage from a config file, with `--config.key=value` for every option."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from esr_lefuse_jax.errors import ConfigError, EsrLefuseError, TrainingError

USAGE = """usage: esr-lefuse train --config=configs/STAGE.py --workdir=runs/NAME [--config.OPTION=VALUE ...]

Trains the stage fusion, sr or joint. Calling it again with the same folder goes on where it stopped.
Every option, with its default, is in esr_lefuse_jax/config.py; the files of configs/ say what a run costs and
gives.

  --config FILE          config file
  --config.KEY=VALUE     sets an option: --config.data.train=FOLDER, --config.optimizer.learning_rate=1e-4
  --workdir FOLDER       run folder: metrics.jsonl, pictures/, checkpoints/, curves.png, best.safetensors
  --num_processes N      processes of a run over several hosts, with
  --process_id I         the number of this one and
  --coordinator H:P      host and port of the first; not needed under SLURM and on TPU pods"""


def main(argv: Sequence[str]) -> int:
    """Parses the flags, trains, and returns 0, or 143 after SIGTERM (saved; call again to go on).

    Raises:
        EsrLefuseError: with one line that says what to do.
    """
    if any(argument in ("-h", "--help", "-help") for argument in argv):
        print(USAGE)
        return 0
    values = _parse(list(argv))

    # After the flags, so that a wrong one is answered at once.
    from esr_lefuse_jax.config import validate
    from esr_lefuse_jax.inference import compilation_cache
    from esr_lefuse_jax.training import parallel

    validate(values.config)
    # Orbax remarks on every folder; what matters comes back as an error.
    logging.getLogger("absl").setLevel(logging.ERROR)
    # Data is read in processes that parse the global flags again; there are none to parse.
    flags.FLAGS.mark_as_parsed()
    parallel.initialize(
        values.num_processes, values.process_id, values.coordinator, values.config.parallel.heartbeat_seconds
    )
    compilation_cache.enable()
    return train(values.config, Path(values.workdir))


def train(config: ConfigDict, workdir: Path) -> int:
    """Trains in the processes that have been joined; returns 0, or 143 after SIGTERM.

    Raises:
        EsrLefuseError: with one process; with several the process ends here, for leaving in peace would mean
            waiting for the others, who wait for this one.
    """
    from jax.errors import JaxRuntimeError

    from esr_lefuse_jax.training import parallel
    from esr_lefuse_jax.training.interrupts import EXIT_CODE
    from esr_lefuse_jax.training.loop import train_and_evaluate

    try:
        result = train_and_evaluate(config, workdir)
    except EsrLefuseError as error:
        if parallel.process_count() == 1:
            raise
        print(f"esr-lefuse train: error: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    except JaxRuntimeError as error:
        if parallel.process_count() == 1:
            raise
        reason = str(error).strip().splitlines()[0][:200]
        print(
            f"esr-lefuse train: error: another process of the run is gone ({reason}); start all of them again",
            file=sys.stderr,
            flush=True,
        )
        os._exit(TrainingError.exit_code)
    return EXIT_CODE if result.interrupted else 0


def _parse(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=["train", *argv])
    flags.DEFINE_string("workdir", None, "Run folder.", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process_id", None, "Number of this process.", lower_bound=0, flag_values=values)
    flags.DEFINE_string("coordinator", None, "host:port of the first process.", flag_values=values)
    path = _value_of("config", argv)
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"--config={path}: no such file")
    try:
        rest = values(["train", *argv])
    except Exception as error:  # a config file is code and can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, AttributeError) and isinstance(error.args[0], KeyError):
            reason = f"--config.*{error.args[0].args[0]}: no such option; see esr_lefuse_jax/config.py"
        raise ConfigError(reason.replace('"', "")) from error
    if len(rest) > 1:
        raise ConfigError(f"{rest[1]!r} is not a flag; see esr-lefuse train --help")
    for name in ("config", "workdir"):
        if getattr(values, name) is None:
            raise ConfigError(f"--{name} is missing; see esr-lefuse train --help")
    return values


def _value_of(name: str, argv: Sequence[str]) -> str | None:
    """The value of a flag, given as --name=value or --name value."""
    for i, argument in enumerate(argv):
        key, separator, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and key == name:
            return value if separator else next(iter(argv[i + 1 :]), None)
    return None
