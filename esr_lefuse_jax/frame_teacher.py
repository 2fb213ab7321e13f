"""The teacher on whole frames: exact, without seams, and no 64-channel map of the enlarged size in memory.

The teacher sees some 350 pixels around each one, far too many to carry along as the margin of a tile. But
each of its 23 blocks sees only 15. So the frame's features stay in memory whole, at low resolution, and go
block by block through strips of rows that overlap by those 15; the enlarging end, which sees 2, goes through
strips of its own. The result equals the untiled network's. A 1280x1024 frame takes 1.9 GB in float32, 1.6 GB of which
are the features that less memory cannot do without.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.inference.memory import default_budget, teacher_strip
from esr_lefuse_jax.models.layers import Dtype, conv, leaky_relu
from esr_lefuse_jax.models.rrdb import ResidualInResidual, nearest_2x
from esr_lefuse_jax.training.teacher import TEACHER_SCALE, box_down, keep_low_frequencies

_BLOCK_HALO = 15  # three dense blocks of five 3x3 convolutions
_BODY_HALO = 1  # conv_first and conv_body
_TAIL_HALO = 2  # one 3x3 at 2x and three at 4x: 0.5 + 3 / 4 low-resolution pixels


class _Tail(nn.Module):
    """The end of RRDBNet, with its names: from features to the image four times as large."""

    features: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name in ("conv_up1", "conv_up2"):
            x = leaky_relu(conv(self.features, dtype=self.dtype, name=name)(nearest_2x(x)))
        x = leaky_relu(conv(self.features, dtype=self.dtype, name="conv_hr")(x))
        return conv(3, dtype=self.dtype, name="conv_last")(x).astype(jnp.float32)


class _OneConv(nn.Module):
    """One convolution of RRDBNet under a name of our own."""

    features: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return conv(self.features, dtype=self.dtype, name="conv")(x)


class FrameTeacher:
    """Enlarges whole frames four times with an RRDBNet.

    Args:
        variables: `{"params": ...}` of `RRDBNet`.
        dtype: of the arithmetic; "bfloat16" halves the time on a GPU or TPU.
        max_memory: bytes that activations may take; by default what the device has. Strips of rows are as high as
            it allows, up to 160, but not lower than their margins need, and whole low-resolution features must fit.
    """

    def __init__(
        self, variables: Mapping[str, Any], *, dtype: str = "float32", max_memory: int | None = None
    ):
        params = variables["params"]
        self._budget = default_budget(jax.devices()[0]) if max_memory is None else max_memory
        self._dtype = jnp.dtype(dtype)
        self._params = jax.device_put(jax.tree.map(jnp.asarray, params))
        self._blocks = sorted((name for name in params if name.startswith("body_")), key=lambda n: int(n[5:]))
        features = params["conv_first"]["kernel"].shape[-1]
        growth = params["body_0"]["rdb1"]["conv1"]["kernel"].shape[-1]
        first = _OneConv(features, self._dtype)
        block = ResidualInResidual(growth, self._dtype)
        tail = _Tail(features, self._dtype)
        # Each is compiled once for a width: all blocks share one program.
        self._conv = jax.jit(lambda p, x: first.apply({"params": {"conv": p}}, x))
        self._block = jax.jit(lambda p, x: block.apply({"params": p}, x))
        self._tail = jax.jit(lambda p, x: tail.apply({"params": p}, x))

    def __call__(
        self, lr: np.ndarray, report: Callable[[float], None] = lambda share: None, *, consistent: bool = True
    ) -> np.ndarray:
        """Enlarges one image.

        Args:
            lr: (H, W, 3) float32 in [0, 1].
            report: takes the share of the work that is done, from 0 to 1.
            consistent: hold the low frequencies to the input's, as training with the teacher does.

        Returns:
            (4H, 4W, 3) float32 in [0, 1].
        """
        rows = self.strip_rows(*np.shape(lr)[:2])
        parts = len(self._blocks) + 4  # the end costs about as much as three blocks
        x = jnp.asarray(lr, self._dtype)[None]
        first = self._through(partial(self._conv, self._params["conv_first"]), x, _BODY_HALO, rows)
        body = first
        for done, name in enumerate(self._blocks):
            body = self._through(partial(self._block, self._params[name]), body, _BLOCK_HALO, rows)
            body.block_until_ready()
            report((done + 1) / parts)
        body = first + self._through(partial(self._conv, self._params["conv_body"]), body, _BODY_HALO, rows)
        tail = {name: self._params[name] for name in ("conv_up1", "conv_up2", "conv_hr", "conv_last")}
        hr = self._through(partial(self._tail, tail), body, _TAIL_HALO, rows // 4, TEACHER_SCALE)
        finish = _keep_low_frequencies if consistent else _clip
        result = np.asarray(finish(hr, jnp.asarray(lr)[None]))[0]
        report(1.0)
        return result

    def strip_rows(self, height: int, width: int) -> int:
        """Low-resolution rows that are computed at once for an image of this size, margins included."""
        return max(teacher_strip(height, width, self._dtype.itemsize, self._budget), 4 * _BLOCK_HALO)

    @staticmethod
    def _through(run: Callable, x: jax.Array, halo: int, rows: int, scale: int = 1) -> jax.Array:
        """Runs `run` on strips of x (1, H, W, C) and puts their valid rows together."""
        strips = []
        for window, valid in windows(x.shape[1], rows, halo):
            y = run(x[:, window])
            strips.append(y[:, valid.start * scale : valid.stop * scale])
        return jnp.concatenate(strips, axis=1) if len(strips) > 1 else strips[0]


_keep_low_frequencies = jax.jit(keep_low_frequencies)


def _clip(hr: jax.Array, lr: jax.Array) -> jax.Array:
    del lr
    return jnp.clip(hr, 0, 1)


def windows(rows: int, size: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Overlapping windows over `rows` rows, all of one size, and which rows of each are valid.

    A window that touches the border of the image ends exactly there, so the zero padding of the convolutions
    is that of the image; everywhere else `halo` rows next to a cut are left to the neighbour.

    Yields:
        The rows of the window, and its valid rows, counted from its start.
    """
    size = min(size, rows)
    done = 0
    while done < rows:
        start = min(max(done - halo, 0), rows - size)
        stop = start + size
        end = rows if stop == rows else stop - halo
        yield slice(start, stop), slice(done - start, end - start)
        done = end


def lr_consistency(hr: np.ndarray, lr: np.ndarray) -> float:
    """PSNR in dB of the enlarged image's 4x4 means against the input, both in [0, 1]."""
    down = np.asarray(box_down(jnp.asarray(hr)[None], TEACHER_SCALE))[0]
    return float(-10 * np.log10(max(float(np.mean((down - lr) ** 2)), 1e-12)))
