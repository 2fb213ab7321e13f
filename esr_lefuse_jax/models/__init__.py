"""The networks as Flax modules. NHWC; one file each, to be read top to bottom."""
