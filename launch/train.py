"""`python launch/train.py` is `esr-lefuse train`; see `--help`."""

import sys

from esr_lefuse_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
