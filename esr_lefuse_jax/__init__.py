"""Night-time infrared-visible image fusion with 4x super-resolution (ESR-LEFuse) in JAX and Flax.

>>> import esr_lefuse_jax
>>> pipeline = esr_lefuse_jax.load("L2025.pth", "sr_unet_aug_enhanced.pth")
>>> result = pipeline(visible, infrared)  # .fused and .hr, float32 in [0, 1]
"""

from typing import TYPE_CHECKING

from esr_lefuse_jax.version import __version__

if TYPE_CHECKING:
    from esr_lefuse_jax.inference.pipeline import Pipeline, Result, load

__all__ = ["Pipeline", "Result", "__version__", "load"]


def __getattr__(name: str):
    # Lazily, so that flags and errors need not wait for jax.
    if name in ("Pipeline", "Result", "load"):
        from esr_lefuse_jax.inference import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
