"""Convolutions with stride 2, both ways, in forms whose gradients are fast too.

The gradient of a strided convolution is one over an input interleaved with zeros, which XLA's CPU back end runs as
plain loops. Written as a stride-1 convolution on 2x2 cells of pixels (space to depth), or on the four phases of the
output, forward and gradients are ordinary convolutions.
"""

import functools

import jax
import jax.numpy as jnp

_DIMS = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
    """Convolution with `pad` rows and columns of zeros around x.

    XLA turns the gradient with respect to an even-sized kernel into a convolution with a reversed window, again plain
    loops; here it is one product of matrices for each tap.
    """
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((pad, pad), (pad, pad)), dimension_numbers=_DIMS)


def _conv_forward(x: jax.Array, kernel: jax.Array, pad: int):
    return _conv(x, kernel, pad), (x, kernel)


def _conv_backward(pad: int, residuals, grad: jax.Array):
    x, kernel = residuals
    size = kernel.shape[0]
    grad_x = _conv(grad, kernel[::-1, ::-1].swapaxes(2, 3), size - 1 - pad)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    _, rows, columns, _ = grad.shape
    taps = [
        jnp.einsum(
            "nhwc,nhwf->cf",
            padded[:, i : i + rows, j : j + columns],
            grad,
            preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
        )
        for i in range(size)
        for j in range(size)
    ]
    return grad_x, jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


def conv_stride2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution with stride 2 and padding 1.

    Args:
        x: (N, H, W, C), any H, W >= 1.
        kernel: (3, 3, C, F).

    Returns:
        (N, ceil(H / 2), ceil(W / 2), F).
    """
    n, h, w, c = x.shape
    rows, columns = (h + 1) // 2, (w + 1) // 2
    # Output i reads rows 2i - 1 to 2i + 1. With a row of zeros above that is the lower half of cell i and the upper
    # half of cell i + 1, up to a fourth row, whose weights are zero.
    x = jnp.pad(x, ((0, 0), (1, 2 * rows + 1 - h), (1, 2 * columns + 1 - w), (0, 0)))
    cells = x.reshape(n, rows + 1, 2, columns + 1, 2, c).transpose(0, 1, 3, 2, 4, 5)
    cells = cells.reshape(n, rows + 1, columns + 1, 4 * c)
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    kernel = kernel.reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * c, -1)
    return _conv(cells, kernel, 0)


def conv_transpose2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 4x4 convolution with stride 2 and padding 1.

    Output pixel (2i + p, 2j + q) is a 2x2 convolution of the input at offset (p, q) with every second tap.

    Args:
        x: (N, H, W, C).
        kernel: (4, 4, C, F), applied to the input interleaved with zeros (flax's orientation).

    Returns:
        (N, 2H, 2W, F).
    """
    _, h, w, _ = x.shape
    phases = jnp.concatenate([kernel[p::2, q::2] for p in (0, 1) for q in (0, 1)], axis=-1)
    both = _conv(x, phases, 1)
    return interleave(both, h, w)


def interleave(phases: jax.Array, rows: int, columns: int) -> jax.Array:
    """Picks each phase (p, q) at its own offset: (N, rows + 1, columns + 1, 4F) to (N, 2 rows, 2 columns, F)."""
    n, f = phases.shape[0], phases.shape[3] // 4
    picked = [
        [phases[:, p : p + rows, q : q + columns, (2 * p + q) * f :][..., :f] for q in (0, 1)] for p in (0, 1)
    ]
    value = jnp.stack([jnp.stack(row, axis=3) for row in picked], axis=2)
    return value.reshape(n, 2 * rows, 2 * columns, f)
