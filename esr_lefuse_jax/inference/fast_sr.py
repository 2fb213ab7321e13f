"""The ESR-U-Net in its inference form: the same function, less work and memory.

`prepare` folds the parameters once; the functions are pure and take a `Rows` (whole images or strips). What differs
from `models.sr`, all exact: the up-sampling head is one convolution on the low-resolution grid (`head`), the fusion
of the stages' outputs adds up as they come instead of waiting for all four, and channel attention multiplies where
its result is read.

The order is `first` -> three times (`reversed_u` -> `gate` -> `dense`) -> `fused` -> `gate` -> `finish`; a gate needs
the mean over the whole image, so the passes over the pixels end there.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.inference import head
from esr_lefuse_jax.inference.rows import Plane, Rows, WholeRows, convolve
from esr_lefuse_jax.models.layers import leaky_relu
from esr_lefuse_jax.models.sr import STAGES
from esr_lefuse_jax.ops.resize import bicubic, pixel_shuffle
from esr_lefuse_jax.ops.sums import pixel_sum

Tree = Mapping[str, Any]

_BICUBIC_REACH = 2
_RESIDUAL_SCALE = 0.2


def scale_of(variables: Tree) -> int:
    """The scale that an ESR-U-Net's parameters are for, from the width of its up-sampling convolution."""
    kernel = variables["params"]["upsample_0"]["kernel"]
    return round((kernel.shape[-1] / kernel.shape[-2]) ** 0.5)


def prepare(variables: Tree, dtype: Any = np.float32) -> dict[str, Any]:
    """Brings the variables of `ESRUNet` into the inference form.

    Args:
        variables: {"params": ...}.
        dtype: type of the weights and of the arithmetic; the attention's small layers stay in float32 or wider.

    Returns:
        A tree of NumPy arrays.
    """
    params = variables["params"]
    scale = scale_of(variables)

    def cast(tree: Tree) -> Any:
        return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), dict(tree))

    def dense(tree: Tree) -> Any:
        return cast(_split_by_input(tree))

    out: dict[str, Any] = {name: cast(params[name]) for name in ("head", "refine_0", "refine_2")}
    for i in range(STAGES):
        rub = dict(params[f"rub_{i}"])
        inner = {name: dense(rub.pop(name)) for name in ("process_0", "process_1")}
        out[f"rub_{i}"] = {**cast(rub), **inner}
        out[f"rdb_{i}"] = dense(params[f"rdb_{i}"])
        out[f"ca_{i}"] = jax.tree.map(np.asarray, params[f"ca_{i}"])
    out["fusion_ca"] = jax.tree.map(np.asarray, params["fusion_ca"])
    fusion = np.asarray(params["fusion_0"]["kernel"])[0, 0]
    width = fusion.shape[1]
    out["fusion"] = [fusion[i * width : (i + 1) * width].astype(dtype) for i in range(STAGES + 1)]
    out["fusion_bias"] = np.asarray(params["fusion_0"]["bias"]).astype(dtype)
    out["up"] = head.compose(params["upsample_0"], params["upsample_2"], scale, dtype)
    return out


def _split_by_input(block: Tree) -> dict[str, np.ndarray]:
    """The four convolutions of a dense block by what they read instead of by what they give.

    Returns:
        `from_x` and `from_1` to `from_3`: kernels from the block's input and from each growth to everything behind
        it, in order; `bias` for all four outputs. The last output holds the residual scale.
    """
    layers = [
        {key: np.asarray(value, np.float64) for key, value in block[f"conv{i}"].items()} for i in (1, 2, 3, 4)
    ]
    layers[3] = {key: _RESIDUAL_SCALE * value for key, value in layers[3].items()}
    starts = [0, *(layer["kernel"].shape[2] for layer in layers)]
    split = {
        name: np.concatenate(
            [layer["kernel"][:, :, starts[i] : starts[i + 1]] for layer in layers[i:]], axis=-1
        )
        for i, name in enumerate(("from_x", "from_1", "from_2", "from_3"))
    }
    return {**split, "bias": np.concatenate([layer["bias"] for layer in layers])}


def dense_block(rows: Rows, p: Tree, x: Plane) -> Plane:
    """Residual dense block. x is zero outside the image, the result is too.

    What a plane contributes to the layers behind it is computed as soon as the plane is there, and added up: the same
    multiplications as with growing concatenations, which would copy every channel again for every layer. The next
    layer's own part is a convolution of its own, so that the rest can run beside the layer that waits for it.
    """
    growth = p["from_1"].shape[2]
    own, later = slice(0, growth), slice(growth, None)
    window = rows.extend(x, 1, 1)
    layer = window.map(lambda v: convolve(v, p["from_x"][..., own], p["bias"][own]))
    rest = window.map(lambda v: convolve(v, p["from_x"][..., later], p["bias"][later]))
    for name in ("from_1", "from_2"):
        window = rows.extend(layer.map(leaky_relu).masked(), 1, 1)
        rest = rows.delay(rest, 1)
        layer = window.with_value(convolve(window.value, p[name][..., own]) + rest.value[..., own])
        rest = window.with_value(convolve(window.value, p[name][..., later]) + rest.value[..., later])
    window = rows.extend(layer.map(leaky_relu).masked(), 1, 1)
    out = window.with_value(convolve(window.value, p["from_3"]) + rows.delay(rest, 1).value)
    x, out = rows.align(x, out)
    return out.with_value(out.value + x.value).masked()


def first(rows: Rows, p: Tree, image: Plane) -> tuple[Plane, jax.Array]:
    """Head convolution, and its share of the fusion."""
    x = rows.conv(image, p["head"]["kernel"], p["head"]["bias"]).map(leaky_relu).masked()
    return x, convolve(x.value, p["fusion"][0][None, None], p["fusion_bias"])


def reversed_u(rows: Rows, p: Tree, x: Plane) -> tuple[Plane, jax.Array]:
    """Reversed U-block, and the sum of its output over the pixels, (N, C) in float32 or wider."""
    y = rows.conv(x, p["up"]["kernel"], p["up"]["bias"])
    y = Plane(pixel_shuffle(y.value, 2), y.start * 2, y.lag * 2, y.height * 2, y.width * 2)
    y = y.map(leaky_relu).masked()
    y = dense_block(rows, p["process_1"], dense_block(rows, p["process_0"], y))
    y = rows.halve(y, p["down_0"]["kernel"], p["down_0"]["bias"]).map(leaky_relu).masked()
    y = rows.conv(y, p["down_2"]["kernel"], p["down_2"]["bias"])
    x, y = rows.align(x, y)
    y = y.with_value(y.value + convolve(x.value, p["skip"]["kernel"], p["skip"]["bias"])).masked()
    return y, pixel_sum(y.value)


def gate(p: Tree, pixel_sums: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """Channel attention's factor from the sums over the pixels, (N, C)."""
    exact = jax.lax.Precision.HIGHEST
    wide = pixel_sums.dtype
    mean = pixel_sums / (height * width).astype(wide)[:, None]
    low, high = p["fc_0"], p["fc_2"]
    hidden = nn.relu(jnp.dot(mean, low["kernel"].astype(wide), precision=exact) + low["bias"].astype(wide))
    return 1 + nn.sigmoid(
        jnp.dot(hidden, high["kernel"].astype(wide), precision=exact) + high["bias"].astype(wide)
    )


def gated(x: Plane, factor: jax.Array) -> Plane:
    """Multiplies the channels by a gate (N, C)."""
    return x.map(lambda v: v * factor[:, None, None].astype(v.dtype))


def dense(rows: Rows, p: Tree, stage: int, x: Plane, factor: jax.Array) -> tuple[Plane, jax.Array]:
    """The rest of a stage behind its gate: dense block, and its share of the fusion."""
    y = dense_block(rows, p[f"rdb_{stage}"], gated(x, factor))
    return y, convolve(y.value, p["fusion"][stage + 1][None, None])


def fused(x: Plane) -> tuple[Plane, jax.Array]:
    """The fusion's activation, and the sum of it over the pixels."""
    x = x.map(leaky_relu).masked()
    return x, pixel_sum(x.value)


def finish(rows: Rows, p: Tree, x: Plane, factor: jax.Array, image: Plane, scale: int) -> Plane:
    """From the gated fusion and the image to the enlarged image (N, r R, r W, 3), float32 or wider.

    `image` must continue its border pixels beyond the image, as bicubic enlargement clamps there.
    """
    detail = head.enlarge(rows, p["up"], gated(x, factor).masked(), scale)
    base = enlarge_bicubic(rows, image, scale)
    base, detail = rows.align(base, detail)
    wide = jnp.promote_types(base.value.dtype, jnp.float32)
    y = detail.with_value((base.value + detail.value.astype(wide)).astype(detail.value.dtype)).masked()
    y = rows.conv(y, p["refine_0"]["kernel"], p["refine_0"]["bias"]).map(leaky_relu).masked()
    y = rows.conv(y, p["refine_2"]["kernel"], p["refine_2"]["bias"])
    return y.map(lambda v: jnp.clip(v.astype(wide), 0, 1))


def enlarge_bicubic(rows: Rows, image: Plane, scale: int) -> Plane:
    """Bicubic enlargement of rows; the image's border rows are continued above and below it."""
    reach = _BICUBIC_REACH
    window = rows.extend(image, reach, reach)
    value = window.value
    size = value.shape[1] - 2 * reach
    # Rows above the first and below the last repeat it, as the clamped indices of the definition do.
    index = window.start - reach + jnp.arange(value.shape[1])
    above, below = (
        (index < 0)[None, :, None, None],
        index[None, :, None, None] >= image.height[:, None, None, None],
    )
    local_first = jnp.clip(reach - window.start, 0, value.shape[1] - 1)
    top = jax.lax.dynamic_slice_in_dim(value, local_first, 1, axis=1)
    last = jnp.clip(image.height - 1 - window.start + reach, 0, value.shape[1] - 1)
    bottom = jnp.take_along_axis(value, last[:, None, None, None], axis=1)
    value = jnp.where(above, top, jnp.where(below, bottom, value))
    right = window.with_value(value).column(image.width - 1)[:, :, None]
    value = jnp.where(image.column_indices < image.width[:, None, None, None], value, right)
    value = bicubic(value, scale)[:, reach * scale : (reach + size) * scale]
    return Plane(value, window.start * scale, window.lag * scale, image.height * scale, image.width * scale)


def enlarge_whole(p: Tree, image: jax.Array, height: jax.Array, width: jax.Array, scale: int) -> jax.Array:
    """Runs the network on whole images of possibly different sizes in one padded batch.

    Args:
        p: from `prepare`.
        image: RGB (N, H, W, 3) in [0, 1].
        height: (N,) rows that belong to each image.
        width: (N,) columns that belong to each image.
        scale: that of the parameters.

    Returns:
        (N, scale*H, scale*W, 3); what lies outside an image is unspecified.
    """
    rows = WholeRows()
    plane = Plane(image, 0, 0, height, width)
    dtype = p["head"]["kernel"].dtype
    x, total = first(rows, p, plane.map(lambda v: v.astype(dtype)).masked())
    for i in range(STAGES):
        x, sums = reversed_u(rows, p[f"rub_{i}"], x)
        x, share = dense(rows, p, i, x, gate(p[f"ca_{i}"], sums, height, width))
        total = total + share
    x, sums = fused(x.with_value(total))
    return finish(rows, p, x, gate(p["fusion_ca"], sums, height, width), plane, scale).value
