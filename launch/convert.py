"""`python launch/convert.py` is `esr-lefuse convert`; see `--help`."""

import sys

from esr_lefuse_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
