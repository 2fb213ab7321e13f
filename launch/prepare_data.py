"""`python launch/prepare_data.py` is `esr-lefuse prepare-data`; see `--help`."""

import sys

from esr_lefuse_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare-data", *sys.argv[1:]]))
