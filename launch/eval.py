"""`python launch/eval.py` is `esr-lefuse eval`; see `--help`."""

import sys

from esr_lefuse_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
