"""How one array of a PyTorch state dict becomes the Flax leaf of the same layer, and back.

All are permutations of numbers (views, no arithmetic), so a round trip is exact to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """A pair of inverse layout changes.

    Attributes:
        to_flax: From PyTorch's axes to Flax's.
        to_torch: From Flax's axes to PyTorch's.
    """

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


# Vectors (biases, scales, running statistics) and scalars.
SAME = Layout(_same, _same)
# Convolution: OIHW to HWIO. A depthwise kernel (C, 1, h, w) becomes (h, w, 1, C) in the same way.
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# Transposed convolution: IOHW to HWIO. PyTorch scatters the kernel over the output, Flax correlates it with
# the dilated input: the same sum with the kernel turned by 180 degrees.
CONV_TRANSPOSE = Layout(
    lambda x: x.transpose(2, 3, 0, 1)[::-1, ::-1], lambda x: x[::-1, ::-1].transpose(2, 3, 0, 1)
)
# Fully connected: (out, in) to (in, out).
DENSE = Layout(lambda x: x.T, lambda x: x.T)
# One number per attention head: (heads, 1, 1) to (heads,).
PER_HEAD = Layout(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1))
