"""The fusion network in its inference form: the same function, several times less work.

`prepare` folds the parameters once; the functions below are pure and take a `Rows`, so that they serve whole images
and strips alike. What differs from `models.fusion`, all exact:

- batch norms are folded into the convolution before them;
- attention multiplies the values by one matrix per image, in which the softmax and the output projection are
  combined; queries and keys enter only through their Gram matrix and norms, which add up over strips;
- the recalibration comes from sums over pixels instead of convolutions (`ops.window_sums`);
- transposed convolutions run as their four phases, depthwise ones as shifted sums.

The path of one dual-branch module is `attention_sums` -> `attention_weights` -> `branches` -> `gates` -> `combine`;
the second and fourth are small matrices, the others passes over the pixels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.inference.rows import Plane, Rows, WholeRows, settle
from esr_lefuse_jax.models.fusion import HEAD_CHANNELS, NORM_FLOOR
from esr_lefuse_jax.models.layers import channel_norm, leaky_relu, mean_of_conv
from esr_lefuse_jax.ops.depthwise import pad_for, shifted_sum
from esr_lefuse_jax.ops.sums import pixel_sum

Tree = Mapping[str, Any]

BLOCKS = ("blk1", "blk2", "blk3", "blk4", "upblk1", "upblk2", "upblk3", "upblk4_0", "upblk4_1")
_EPSILON = 1e-5


def prepare(variables: Tree, dtype: Any = np.float32) -> dict[str, Any]:
    """Folds the variables of `FusionUNet` into the inference form.

    Args:
        variables: {"params": ..., "batch_stats": ...}.
        dtype: type of the weights and of the arithmetic; norm parameters, temperatures and the recalibration stay
            in float32 (or in the parameters' own type when that is wider).

    Returns:
        A tree of NumPy arrays.
    """
    params, stats = variables["params"], variables["batch_stats"]
    tree: dict[str, Any] = {name: _prepare_block(params[name], stats[name], dtype) for name in BLOCKS}
    for name in ("emb1", "emb2", "emb3", "emb4", "conv_3_1", "conv_3_2", "conv_3_3", "dec_0", "dec_2"):
        tree[name] = {key: np.asarray(params[name][key]).astype(dtype) for key in ("kernel", "bias")}
    for name in ("up4", "up3", "up2"):
        tree[name] = phase_kernel(np.asarray(params[name]["kernel"])).astype(dtype)
    return tree


def phase_kernel(kernel: np.ndarray) -> np.ndarray:
    """Splits a 4x4 stride-2 transposed kernel (4, 4, in, out) into its phases, a 2x2 kernel (2, 2, in, 4 * out).

    The kernel is applied to the zero-interleaved input (flax's orientation); output (2i + p, 2j + q) uses every
    second tap, at offset (p, q).
    """
    return np.concatenate([kernel[p::2, q::2] for p in (0, 1) for q in (0, 1)], axis=-1)


def _fold(conv: Tree, norm: Tree, stats: Tree) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution with the batch norm behind it folded in."""
    wide = np.float64
    scale = np.asarray(norm["scale"], wide) / np.sqrt(np.asarray(stats["var"], wide) + _EPSILON)
    kernel = np.asarray(conv["kernel"], wide) * scale
    bias = (np.asarray(conv["bias"], wide) - np.asarray(stats["mean"], wide)) * scale + np.asarray(
        norm["bias"], wide
    )
    return kernel, bias


def _prepare_block(params: Tree, stats: Tree, dtype: Any) -> dict[str, Any]:
    context, local, recalibration = params["global_path"], params["local_path"], params["recalibration"]
    local_stats = stats["local_path"]
    attn, ffn = context["attn"], context["ffn"]
    dim = np.shape(context["norm1"]["scale"])[0]
    qkv, qkv_dw = np.asarray(attn["qkv"]["kernel"])[0, 0], np.asarray(attn["qkv_dwconv"]["kernel"])
    dw1, dw1_bias = _fold(local["dwconv"]["conv"], local["dwconv"]["bn"], local_stats["dwconv"]["bn"])
    out, out_bias = _fold(local["g"]["conv"], local["g"]["bn"], local_stats["g"]["bn"])
    aux, aux_bias = _fold(local["aux_g"]["conv"], local["aux_g"]["bn"], local_stats["aux_g"]["bn"])
    f1, f2 = local["f1"]["conv"], local["f2"]["conv"]
    weights = {
        "qk": qkv[:, : 2 * dim],
        "qk_dw": qkv_dw[..., : 2 * dim],
        "v": qkv[:, 2 * dim :],
        "v_dw": qkv_dw[..., 2 * dim :],
        "ffn_in": np.asarray(ffn["project_in"]["kernel"])[0, 0],
        "ffn_dw": ffn["dwconv"]["kernel"],
        "ffn_out": np.asarray(ffn["project_out"]["kernel"])[0, 0],
        "dw1": dw1,
        "dw1_bias": dw1_bias,
        "expand": np.concatenate([np.asarray(f1["kernel"])[0, 0], np.asarray(f2["kernel"])[0, 0]], axis=-1),
        "expand_bias": np.concatenate([np.asarray(f1["bias"]), np.asarray(f2["bias"])]),
        "out": out[0, 0],
        "out_bias": out_bias,
        "dw2": local["dwconv2"]["conv"]["kernel"],
        "aux": aux[0, 0],
        "aux_bias": aux_bias + np.asarray(local["dwconv2"]["conv"]["bias"]),
    }
    wide = np.promote_types(np.float32, np.asarray(qkv).dtype)
    exact = {
        "norm1": context["norm1"],
        "norm2": context["norm2"],
        "temperature": attn["temperature"],
        "project_out": np.asarray(attn["project_out"]["kernel"])[0, 0],
        **{f"se{i}": recalibration[f"se_conv{i}"] for i in (1, 2, 3, 4)},
    }
    return {
        **{key: np.asarray(value).astype(dtype) for key, value in weights.items()},
        **jax.tree.map(lambda leaf: np.asarray(leaf).astype(wide), exact),
    }


def dot(x: jax.Array, weight: jax.Array) -> jax.Array:
    """(..., C) times (C, F)."""
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (0,)), ((), ())))


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, in float32 or wider. flax writes it with erfc, whose two branches cost twice as much as erf."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1 + jax.lax.erf(wide * np.sqrt(0.5).astype(wide.dtype)))).astype(x.dtype)


def normed(x: Plane, p: Tree, dtype: Any) -> Plane:
    """Layer norm over the channels, zero outside the image."""
    return x.map(lambda v: channel_norm(v, p["scale"], p["bias"]).astype(dtype)).masked()


def depthwise(rows: Rows, x: Plane, kernel: jax.Array) -> Plane:
    """Depthwise convolution, same size; x must be zero outside the image."""
    half = kernel.shape[0] // 2
    extended = rows.extend(x, half, half)
    return extended.map(lambda v: shifted_sum(pad_for(v, (1, kernel.shape[1])), kernel))


def projected_depthwise(rows: Rows, x: Plane, weight: jax.Array, kernel: jax.Array) -> Plane:
    """A product with (C, F), then a depthwise convolution; x must be zero outside the image.

    Padding and the rows kept from strip to strip are those before the product, where they are narrower; in return
    every strip repeats the product for the rows that it was given.
    """
    half = kernel.shape[0] // 2
    extended = rows.extend(x, half, half)
    return extended.map(lambda v: shifted_sum(dot(pad_for(v, (1, kernel.shape[1])), weight), kernel))


class AttentionSums(NamedTuple):
    """What attention needs of queries and keys; adds up over strips. (N, d, d), (N, d), (N, d)."""

    gram: jax.Array
    q_square: jax.Array
    k_square: jax.Array


def attention_sums(rows: Rows, p: Tree, x: Plane) -> AttentionSums:
    """First pass of a module: Gram matrix and squared norms of queries and keys."""
    dtype = p["qk"].dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    qk = projected_depthwise(rows, normed(x, p["norm1"], dtype), p["qk"], p["qk_dw"]).masked().value
    n, dim = qk.shape[0], qk.shape[-1] // 2
    q, k = settle((qk[..., :dim], qk[..., dim:]), jnp.all(x.height >= 0))
    gram = jnp.einsum("npc,npd->ncd", *(v.reshape(n, -1, dim) for v in (q, k)), preferred_element_type=wide)
    q_square, k_square = (pixel_sum(jnp.square(v.astype(wide))) for v in (q, k))
    return AttentionSums(gram, q_square, k_square)


def attention_weights(p: Tree, sums: AttentionSums) -> jax.Array:
    """Softmax and output projection as one matrix for each image, (N, d, d), applied to the values."""
    gram = sums.gram
    n, dim, _ = gram.shape
    heads = dim // HEAD_CHANNELS
    q_norm = jnp.sqrt(sums.q_square + NORM_FLOOR**2)
    k_norm = jnp.sqrt(sums.k_square + NORM_FLOOR**2)
    cosine = gram / (q_norm[:, :, None] * k_norm[:, None, :])
    cosine = cosine.reshape(n, heads, HEAD_CHANNELS, heads, HEAD_CHANNELS)
    index = np.arange(heads)
    cosine = cosine[:, index, :, index]  # (heads, N, c, c): the diagonal blocks
    logits = cosine * p["temperature"].astype(gram.dtype)[:, None, None, None]
    attention = jax.nn.softmax(logits, axis=-1)
    project = p["project_out"].astype(gram.dtype).reshape(heads, HEAD_CHANNELS, dim)
    combined = jnp.einsum("hncd,hco->nhdo", attention, project, precision=jax.lax.Precision.HIGHEST)
    return combined.reshape(n, dim, dim)


class Branches(NamedTuple):
    """The two paths of a module and the sums that their recalibration needs."""

    context: Plane
    texture: Plane
    sums: jax.Array


def branches(rows: Rows, p: Tree, x: Plane, attention: jax.Array) -> Branches:
    """Second pass of a module: both paths, and the nine region sums of their concatenation, (N, 3, 3, 2d)."""
    dtype = p["v"].dtype
    values = projected_depthwise(rows, normed(x, p["norm1"], dtype), p["v"], p["v_dw"])
    values, delayed = rows.align(values, x)
    attended = jnp.einsum("nhwd,ndo->nhwo", values.value, attention.astype(dtype))
    context = delayed.with_value(delayed.value + attended)

    hidden = projected_depthwise(rows, normed(context, p["norm2"], dtype), p["ffn_in"], p["ffn_dw"])
    half = hidden.value.shape[-1] // 2

    def gated(v: jax.Array) -> jax.Array:
        return dot(gelu(v[..., :half]) * v[..., half:], p["ffn_out"])

    hidden, context = rows.align(hidden, context)
    context = context.with_value(context.value + gated(hidden.value))

    texture = depthwise(rows, x, p["dw1"])

    def expand(v: jax.Array) -> jax.Array:
        expanded = dot(v + p["dw1_bias"], p["expand"]) + p["expand_bias"]
        middle = expanded.shape[-1] // 2
        return dot(nn.relu6(expanded[..., :middle]) * expanded[..., middle:], p["out"]) + p["out_bias"]

    texture = depthwise(rows, texture.map(expand).masked(), p["dw2"])
    # The context does not wait for the texture: their sums are apart, and each goes to its own place.
    texture, delayed = rows.align(texture, x)
    texture = texture.with_value(texture.value + dot(delayed.value, p["aux"]) + p["aux_bias"])
    context, texture = context.masked(), texture.masked().settled()
    return Branches(context, texture, jnp.concatenate([region_sums(context), region_sums(texture)], axis=-1))


def region_sums(x: Plane) -> jax.Array:
    """`ops.window_sums.border_sums` for rows of images of different sizes; adds up over strips. (N, 3, 3, C)."""
    wide = jnp.promote_types(x.value.dtype, jnp.float32)
    last_row, last_column = x.height - 1, x.width - 1

    def line(index: jax.Array) -> jax.Array:
        """An image row as (N, W, C), zero where it is not among these rows."""
        here = (index >= x.start) & (index < x.start + x.value.shape[1])
        return jnp.where(here[:, None, None], x.row(index).astype(wide), 0)

    columns = [
        jnp.sum(x.value[:, :, 0], axis=1, dtype=wide),
        jnp.sum(x.column(last_column), axis=1, dtype=wide),
    ]
    regions = [[pixel_sum(x.value), *columns]]
    for index in (jnp.zeros_like(last_row), last_row):
        row = line(index)
        end = jnp.take_along_axis(row, last_column[:, None, None], axis=1)[:, 0]
        regions.append([pixel_sum(row[:, None]), row[:, 0], end])
    return jnp.stack([jnp.stack(row, axis=1) for row in regions], axis=1)


def gates(p: Tree, sums: jax.Array, height: jax.Array, width: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The recalibration's weights of context and texture, (N, d) each."""
    exact = jax.lax.Precision.HIGHEST
    pixels = (height * width).astype(sums.dtype)[:, None, None, None]
    z = mean_of_conv(sums, pixels, p["se1"]["kernel"], p["se1"]["bias"])

    def linear(z: jax.Array, q: Tree) -> jax.Array:
        return jnp.dot(z, q["kernel"][0, 0].astype(z.dtype), precision=exact) + q["bias"].astype(z.dtype)

    z = linear(z, p["se2"])
    return nn.sigmoid(linear(z, p["se3"])), nn.sigmoid(linear(z, p["se4"]))


def combine(
    x: jax.Array, context: jax.Array, texture: jax.Array, weights: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Third pass of a module: the input plus both weighted paths, (N, R, W, d)."""
    context_weight, texture_weight = (w[:, None, None].astype(x.dtype) for w in weights)
    return x + texture * texture_weight + context * context_weight


def embed(rows: Rows, p: Tree, name: str, x: Plane) -> Plane:
    """The convolution in front of an encoder level: 2 -> 32 at level 1, stride 2 behind it."""
    q = p[name]
    y = rows.conv(x, q["kernel"], q["bias"]) if name == "emb1" else rows.halve(x, q["kernel"], q["bias"])
    return y.masked()


def ascend(rows: Rows, p: Tree, up: str, conv: str, x: Plane, skip: Plane) -> Plane:
    """From one decoder level to the next: doubles x, fits it to the skip, joins both in one convolution."""
    y = rows.double(x, p[up]).map(nn.relu)
    y = rows.shrink_to(y, skip.height, skip.width).masked()
    c = y.value.shape[-1]
    kernel, bias = p[conv]["kernel"], p[conv]["bias"]
    y = rows.conv(y, kernel[:, :, :c], bias)
    skip = rows.conv(skip, kernel[:, :, c:])
    y, skip = rows.align(y, skip)
    return y.with_value(y.value + skip.value).masked()


def decode(rows: Rows, p: Tree, x: Plane) -> Plane:
    """The last two convolutions and the sigmoid: fused luminance, (N, R, W, 1), float32 or wider."""
    y = rows.conv(x, p["dec_0"]["kernel"], p["dec_0"]["bias"]).map(leaky_relu).masked()
    y = rows.conv(y, p["dec_2"]["kernel"], p["dec_2"]["bias"])
    return y.map(lambda v: nn.sigmoid(v.astype(jnp.promote_types(v.dtype, jnp.float32))))


def fuse_whole(p: Tree, y: jax.Array, infrared: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """Runs the network on whole images of possibly different sizes in one padded batch.

    Args:
        p: from `prepare`.
        y: visible luminance (N, H, W, 1) in [0, 1]; H and W multiples of 8.
        infrared: same shape.
        height: (N,) rows that belong to each image.
        width: (N,) columns that belong to each image.

    Returns:
        Fused luminance (N, H, W, 1); what lies outside an image is unspecified.
    """
    rows = WholeRows()
    dtype = p["emb1"]["kernel"].dtype
    x = Plane(jnp.concatenate([y, infrared], axis=-1).astype(dtype), 0, 0, height, width).masked()

    def block(x: Plane, name: str) -> Plane:
        q = p[name]
        attention = attention_weights(q, attention_sums(rows, q, x))
        context, texture, sums = branches(rows, q, x, attention)
        return x.with_value(combine(x.value, context.value, texture.value, gates(q, sums, x.height, x.width)))

    skips = []
    for level in (1, 2, 3, 4):
        x = block(embed(rows, p, f"emb{level}", x), f"blk{level}")
        skips.append(x)
    skips.pop()
    for index, up in enumerate(("up4", "up3", "up2"), start=1):
        x = block(ascend(rows, p, up, f"conv_3_{index}", x, skips.pop()), f"upblk{index}")
    x = block(block(x, "upblk4_0"), "upblk4_1")
    return decode(rows, p, x).value
