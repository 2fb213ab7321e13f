"""The `esr-lefuse` command; `launch/*.py` call the same `main`.

A command is a module of `esr_lefuse_jax.commands` with `add_arguments(parser)` and `run(args) -> int`. Modules are
imported only when their command is called, so that `--help` and flag errors answer at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from esr_lefuse_jax.errors import EsrLefuseError
from esr_lefuse_jax.version import __version__

COMMANDS = {
    "demo": "render a night pair, fuse it and enlarge it four times",
    "infer": "fuse and enlarge a pair or folders of pairs",
    "train": "train a stage from a config",
    "eval": "measure predictions and compare methods",
    "reproduce-tables": "the published tables beside your own figures",
    "convert": "PyTorch .pth <-> safetensors and Orbax",
    "weights": "list, import and check weights",
    "prepare-data": "write folders of pairs as a TFDS data set",
    "make-pseudo-hr": "make LR-HR pairs with the Real-ESRGAN teacher",
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "usage: esr-lefuse COMMAND [flags]   (esr-lefuse COMMAND --help for the flags)\n\n" + "\n".join(
        lines
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; user errors are printed as one line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        print(f"esr-lefuse: error: unknown command {name!r}; one of: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"esr_lefuse_jax.commands.{name.replace('-', '_')}")
    try:
        if hasattr(module, "main"):  # a command that parses its own flags (train: absl config flags)
            return module.main(rest)
        parser = argparse.ArgumentParser(
            prog=f"esr-lefuse {name}",
            description=COMMANDS[name],
            formatter_class=argparse.RawTextHelpFormatter,
        )
        module.add_arguments(parser)
        return module.run(parser.parse_args(rest))
    except EsrLefuseError as error:
        print(f"esr-lefuse {name}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"esr-lefuse {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`); say nothing more, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
