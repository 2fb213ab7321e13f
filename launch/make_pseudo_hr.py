"""`python launch/make_pseudo_hr.py` is `esr-lefuse make-pseudo-hr`; see `--help`."""

import sys

from esr_lefuse_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["make-pseudo-hr", *sys.argv[1:]]))
