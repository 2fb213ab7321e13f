"""The table of all networks: PyTorch key <-> Flax path, shape and layout of every array.

One `Leaf` for each array, built layer by layer in the order of the original state dicts. The table is the one
statement of what a checkpoint must contain: conversion, validation and the choice of network all read it, so
nothing has to be traced or initialised to judge a file.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from weights_conversion.layouts import CONV, CONV_TRANSPOSE, DENSE, PER_HEAD, SAME, Layout

NETWORKS = ("fusion", "sr", "rrdb", "vgg16")
SR_SCALES = (2, 3, 4)
RRDB_BLOCKS = (23, 6)  # Real-ESRGAN x4plus and its anime edition
# Index in torchvision's `vgg16().features` of the convolutions up to relu4_3, and their channels.
VGG_LAYERS = (
    (0, 64),
    (2, 64),
    (5, 128),
    (7, 128),
    (10, 256),
    (12, 256),
    (14, 256),
    (17, 512),
    (19, 512),
    (21, 512),
)
DEFAULT_OPTIONS: dict[str, dict[str, int]] = {
    "fusion": {},
    "sr": {"scale": 4},
    "rrdb": {"num_blocks": 23},
    "vgg16": {},
}


@dataclass(frozen=True)
class Leaf:
    """One array of a network.

    Attributes:
        torch_key: Its key in the original state dict.
        path: Its path in the Flax variables, joined by "/": "params/emb1/kernel".
        torch_shape: Its shape in the state dict.
        layout: The change of axes between the two.
        is_count: Whether it is an integer counter (int64 there, int32 here) instead of a float32 array.
    """

    torch_key: str
    path: str
    torch_shape: tuple[int, ...]
    layout: Layout = SAME
    is_count: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the Flax variables."""
        return self.layout.to_flax(np.broadcast_to(np.float32(0), self.torch_shape)).shape

    @property
    def dtype(self) -> np.dtype:
        """Its type in the Flax variables."""
        return np.dtype(np.int32 if self.is_count else np.float32)


def leaves(network: str, **options: int) -> tuple[Leaf, ...]:
    """Returns all arrays of a network.

    Args:
        network: One of `NETWORKS`.
        **options: `scale` of "sr" (2, 3 or 4; default 4), `num_blocks` of "rrdb" (default 23).
    """
    return _leaves(network, **(DEFAULT_OPTIONS[network] | options))


@functools.cache
def _leaves(network: str, **options: int) -> tuple[Leaf, ...]:
    table = _Table()
    _BUILDERS[network](table, **options)
    return tuple(table.rows)


def by_torch_key(network: str, **options: int) -> Mapping[str, Leaf]:
    """Returns the arrays of a network by their PyTorch key; arguments as for `leaves`."""
    return _by_name(network, "torch_key", **options)


def by_path(network: str, **options: int) -> Mapping[str, Leaf]:
    """Returns the arrays of a network by their Flax path; arguments as for `leaves`."""
    return _by_name(network, "path", **options)


@functools.cache
def _by_name(network: str, attribute: str, **options: int) -> Mapping[str, Leaf]:
    return {getattr(leaf, attribute): leaf for leaf in leaves(network, **options)}


class _Table:
    """Collects leaves; `torch` and `flax` are the names of a layer on the two sides."""

    def __init__(self) -> None:
        self.rows: list[Leaf] = []

    def conv(self, torch: str, flax: str, n_in: int, n_out: int, size: int = 3, bias: bool = True) -> None:
        self._add(f"{torch}.weight", f"params/{flax}/kernel", (n_out, n_in, size, size), CONV)
        if bias:
            self._add(f"{torch}.bias", f"params/{flax}/bias", (n_out,))

    def conv_transpose(self, torch: str, flax: str, n_in: int, n_out: int, size: int) -> None:
        self._add(f"{torch}.weight", f"params/{flax}/kernel", (n_in, n_out, size, size), CONV_TRANSPOSE)

    def dense(self, torch: str, flax: str, n_in: int, n_out: int) -> None:
        self._add(f"{torch}.weight", f"params/{flax}/kernel", (n_out, n_in), DENSE)
        self._add(f"{torch}.bias", f"params/{flax}/bias", (n_out,))

    def norm(self, torch: str, flax: str, channels: int) -> None:
        self._add(f"{torch}.weight", f"params/{flax}/scale", (channels,))
        self._add(f"{torch}.bias", f"params/{flax}/bias", (channels,))

    def batch_norm(self, torch: str, flax: str, channels: int) -> None:
        self.norm(torch, flax, channels)
        self._add(f"{torch}.running_mean", f"batch_stats/{flax}/mean", (channels,))
        self._add(f"{torch}.running_var", f"batch_stats/{flax}/var", (channels,))
        self.rows.append(Leaf(f"{torch}.num_batches_tracked", f"batch_stats/{flax}/count", (), is_count=True))

    def per_head(self, torch: str, flax: str, heads: int) -> None:
        self._add(torch, f"params/{flax}", (heads, 1, 1), PER_HEAD)

    def _add(self, key: str, path: str, shape: tuple[int, ...], layout: Layout = SAME) -> None:
        self.rows.append(Leaf(key, path, shape, layout))


def _dual_branch(t: _Table, torch: str, flax: str, dim: int) -> None:
    context, path = f"{torch}.Global", f"{flax}/global_path"
    t.norm(f"{context}.norm1.body", f"{path}/norm1", dim)
    t.per_head(f"{context}.attn.temperature", f"{path}/attn/temperature", dim // 8)
    t.conv(f"{context}.attn.qkv", f"{path}/attn/qkv", dim, 3 * dim, 1, bias=False)
    t.conv(f"{context}.attn.qkv_dwconv", f"{path}/attn/qkv_dwconv", 1, 3 * dim, 3, bias=False)
    t.conv(f"{context}.attn.project_out", f"{path}/attn/project_out", dim, dim, 1, bias=False)
    t.norm(f"{context}.norm2.body", f"{path}/norm2", dim)
    t.conv(f"{context}.ffn.project_in", f"{path}/ffn/project_in", dim, 4 * dim, 1, bias=False)
    t.conv(f"{context}.ffn.dwconv", f"{path}/ffn/dwconv", 1, 4 * dim, 3, bias=False)
    t.conv(f"{context}.ffn.project_out", f"{path}/ffn/project_out", 2 * dim, dim, 1, bias=False)
    texture, path = f"{torch}.Local", f"{flax}/local_path"
    for name, n_in, n_out, size, has_norm in (
        ("dwconv", 1, dim, 7, True),
        ("f1", dim, 3 * dim, 1, False),
        ("f2", dim, 3 * dim, 1, False),
        ("g", 3 * dim, dim, 1, True),
        ("dwconv2", 1, dim, 7, False),
        ("aux_g", dim, dim, 1, True),
    ):
        t.conv(f"{texture}.{name}.conv", f"{path}/{name}/conv", n_in, n_out, size)
        if has_norm:
            t.batch_norm(f"{texture}.{name}.bn", f"{path}/{name}/bn", dim)
    for index, size, n_out in ((1, 3, 2 * dim), (2, 1, 2 * dim), (3, 1, dim), (4, 1, dim)):
        t.conv(f"{torch}.se_conv{index}", f"{flax}/recalibration/se_conv{index}", 2 * dim, n_out, size)


def _fusion(t: _Table) -> None:
    dims = (32, 64, 96, 128)
    for level, (n_in, dim) in enumerate(zip((2, *dims), dims, strict=False), start=1):
        t.conv(f"fuser.emb{level}", f"emb{level}", n_in, dim)
        _dual_branch(t, f"fuser.blk{level}", f"blk{level}", dim)
    for index, (n_in, dim) in enumerate(((128, 96), (96, 64), (64, 32)), start=1):
        t.conv_transpose(f"fuser.up{5 - index}.up.0", f"up{5 - index}", n_in, dim, 4)
        t.conv(f"fuser.conv_3_{index}", f"conv_3_{index}", 2 * dim, dim)
        _dual_branch(t, f"fuser.upblk{index}", f"upblk{index}", dim)
    for index in (0, 1):
        _dual_branch(t, f"fuser.upblk4.{index}", f"upblk4_{index}", 32)
    t.conv("fuser.dec.0", "dec_0", 32, 16)
    t.conv("fuser.dec.2", "dec_2", 16, 1)


def _residual_dense(
    t: _Table, torch: str, flax: str, channels: int = 64, growth: int = 32, convs: int = 4
) -> None:
    for i in range(convs):
        n_out = growth if i < convs - 1 else channels
        t.conv(f"{torch}.conv{i + 1}", f"{flax}/conv{i + 1}", channels + growth * i, n_out)


def _channel_attention(t: _Table, torch: str, flax: str) -> None:
    t.dense(f"{torch}.fc.0", f"{flax}/fc_0", 64, 4)
    t.dense(f"{torch}.fc.2", f"{flax}/fc_2", 4, 64)


def _sr(t: _Table, scale: int) -> None:
    t.conv("head.0", "head", 3, 64)
    for i in range(3):
        torch, flax = f"rub_blocks.{i}.0", f"rub_{i}"
        t.conv(f"{torch}.up.0", f"{flax}/up", 64, 256)
        _residual_dense(t, f"{torch}.process.0", f"{flax}/process_0")
        _residual_dense(t, f"{torch}.process.1", f"{flax}/process_1")
        t.conv(f"{torch}.down.0", f"{flax}/down_0", 64, 64)
        t.conv(f"{torch}.down.2", f"{flax}/down_2", 64, 64)
        t.conv(f"{torch}.skip", f"{flax}/skip", 64, 64, 1)
        _channel_attention(t, f"rub_blocks.{i}.1", f"ca_{i}")
        _residual_dense(t, f"rub_blocks.{i}.2", f"rdb_{i}")
    t.conv("fusion.0", "fusion_0", 256, 64, 1)
    _channel_attention(t, "fusion.2", "fusion_ca")
    t.conv("upsample.0", "upsample_0", 64, 64 * scale**2)
    t.conv("upsample.2", "upsample_2", 64, 3)
    t.conv("refine.0", "refine_0", 3, 32)
    t.conv("refine.2", "refine_2", 32, 3)


def _rrdb(t: _Table, num_blocks: int) -> None:
    t.conv("conv_first", "conv_first", 3, 64)
    for block in range(num_blocks):
        for dense in (1, 2, 3):
            _residual_dense(t, f"body.{block}.rdb{dense}", f"body_{block}/rdb{dense}", convs=5)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        t.conv(name, name, 64, 64)
    t.conv("conv_last", "conv_last", 64, 3)


def _vgg16(t: _Table) -> None:
    n_in = 3
    for index, (layer, n_out) in enumerate(VGG_LAYERS):
        t.conv(f"features.{layer}", f"conv{index}", n_in, n_out)
        n_in = n_out


_BUILDERS: dict[str, Callable[..., None]] = {"fusion": _fusion, "sr": _sr, "rrdb": _rrdb, "vgg16": _vgg16}
