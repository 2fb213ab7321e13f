"""Night-time infrared-visible image fusion with 4x super-resolution (ESR-LEFuse) in JAX and Flax."""

from esr_lefuse_jax.version import __version__

__all__ = ["__version__"]
