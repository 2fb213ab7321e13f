"""Both networks over strips: the passes of `fast_fusion` and `fast_sr`, in the order in which their sums allow."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from esr_lefuse_jax.errors import ImageError
from esr_lefuse_jax.inference import fast_fusion, fast_sr
from esr_lefuse_jax.inference.rows import Plane, Rows
from esr_lefuse_jax.inference.streaming import Grid, InMemory, Planes, Sizes
from esr_lefuse_jax.models.sr import STAGES

Tree = Mapping[str, Any]


def _embed_first(rows: Rows, x: Plane, p: Tree):
    return (fast_fusion.embed(rows, p, "emb1", x.masked()),), ()


def _embed(rows: Rows, x: Plane, p: Tree):
    return (fast_fusion.embed(rows, {"emb": p}, "emb", x),), ()


def _attention_sums(rows: Rows, x: Plane, p: Tree):
    return (), fast_fusion.attention_sums(rows, p, x)


def _branches(rows: Rows, x: Plane, p: Tree, attention: jax.Array):
    context, texture, sums = fast_fusion.branches(rows, p, x, attention)
    return (context, texture), sums


def _combine(rows: Rows, x: Plane, context: Plane, texture: Plane, weights: tuple[jax.Array, jax.Array]):
    return (x.with_value(fast_fusion.combine(x.value, context.value, texture.value, weights)),), ()


def _ascend(rows: Rows, skip: Plane, x: Plane, up: jax.Array, conv: Tree):
    return (fast_fusion.ascend(rows, {"up": up, "conv": conv}, "up", "conv", x, skip),), ()


def _decode(rows: Rows, x: Plane, p: Tree):
    return (fast_fusion.decode(rows, p, x),), ()


@jax.jit
def _attention_weights(p: Tree, sums: fast_fusion.AttentionSums) -> jax.Array:
    return fast_fusion.attention_weights(p, sums)


@jax.jit
def _gates(p: Tree, sums: jax.Array, size: Sizes) -> tuple[jax.Array, jax.Array]:
    return fast_fusion.gates(p, sums, *size)


def fuse_strips(
    p: Tree,
    y: jax.Array,
    infrared: jax.Array,
    height: jax.Array,
    width: jax.Array,
    strip: int,
    planes: Planes | None = None,
) -> Any:
    """`fast_fusion.fuse_whole` in strips of `strip` rows (a multiple of 8); `planes` says where planes are kept."""
    planes = planes or InMemory()
    batch, rows, columns, _ = y.shape
    dtype = p["emb1"]["kernel"].dtype
    grids = [Grid(rows >> level, columns >> level, strip) for level in range(4)]
    sizes: list[Sizes] = [(height, width)]
    for _ in range(3):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))

    def block(x: Any, level: int, q: Tree) -> Any:
        grid, size = grids[level], sizes[level]
        _, sums = planes.run(_attention_sums, (grid,), (), (x,), (), (size,), q)
        empty = tuple(planes.take(grid, batch, x.shape[-1], dtype) for _ in range(2))
        attention = _attention_weights(q, sums)
        paths, regions = planes.run(_branches, (grid,), (grid, grid), (x,), empty, (size,), q, attention)
        weights = _gates(q, regions, size)
        (x,), _ = planes.run(_combine, (grid,) * 3, (grid,), (None, *paths), (x,), (size,) * 3, weights)
        planes.give_back(grid, *paths)
        return x

    def bridge(level: int) -> tuple[Grid, Grid]:
        """Grids of a level and the coarser one for a pass that reads or writes both."""
        fine, coarse = grids[level], grids[level + 1]
        return fine, Grid(coarse.rows, coarse.columns, fine.strip // 2, coarse.margin)

    image = planes.load(jnp.concatenate([y, infrared], axis=-1).astype(dtype), grids[0])
    empty = planes.take(grids[0], batch, p["emb1"]["bias"].shape[0], dtype)
    (x,), _ = planes.run(_embed_first, (grids[0],), (grids[0],), (image,), (empty,), (sizes[0],), p)
    del image
    x = block(x, 0, p["blk1"])
    skips = []
    for level in (1, 2, 3):
        skips.append(x)
        fine, coarse = bridge(level - 1)
        q = p[f"emb{level + 1}"]
        empty = planes.take(grids[level], batch, q["bias"].shape[0], dtype)
        (x,), _ = planes.run(_embed, (fine,), (coarse,), (x,), (empty,), (sizes[level - 1],), q)
        x = block(x, level, p[f"blk{level + 1}"])
    for index, up in enumerate(("up4", "up3", "up2"), start=1):
        level = 3 - index
        fine, coarse = bridge(level)
        # The decoder's plane takes the place of the encoder's.
        (y,), _ = planes.run(
            _ascend, (fine, coarse), (fine,), (None, x), (skips.pop(),), (sizes[level], sizes[level + 1]), p[up],
            p[f"conv_3_{index}"],
        )  # fmt: skip
        planes.give_back(grids[level + 1], x)
        x = block(y, level, p[f"upblk{index}"])
    x = block(x, 0, p["upblk4_0"])
    x = block(x, 0, p["upblk4_1"])
    empty = planes.result(grids[0], batch, 1, jnp.promote_types(dtype, jnp.float32))
    (out,), _ = planes.run(_decode, (grids[0],), (grids[0],), (x,), (empty,), (sizes[0],), p)
    planes.give_back(grids[0], x)
    return planes.rows(out, grids[0])


def _first(rows: Rows, image: Plane, p: Tree):
    x, share = fast_sr.first(rows, p, image.map(lambda v: v.astype(p["head"]["kernel"].dtype)).masked())
    return (x, x.with_value(share)), ()


def _reversed_u(rows: Rows, x: Plane, p: Tree):
    y, sums = fast_sr.reversed_u(rows, p, x)
    return (y,), sums


def _dense(rows: Rows, x: Plane, total: Plane, p: Tree, share: jax.Array, factor: jax.Array):
    y, part = fast_sr.dense(rows, {"rdb_0": p, "fusion": (None, share)}, 0, x, factor)
    (total,) = (rows.delay(total, y.lag - total.lag),)
    return (y, total.with_value(total.value + part)), ()


def _fused(rows: Rows, x: Plane):
    y, sums = fast_sr.fused(x)
    return (y,), sums


def _finish(rows: Rows, x: Plane, image: Plane, p: Tree, factor: jax.Array, offset: jax.Array | None):
    scale = round((p["up"]["bias"].shape[0] // 3) ** 0.5)
    out = fast_sr.finish(rows, p, x, factor, image, scale)
    if offset is None:
        return (out,), ()
    broken = jnp.sum(~jnp.isfinite(out.masked().value), dtype=jnp.int32)
    return (out.map(lambda v: jnp.clip(v * 255 + offset, 0, 255).astype(jnp.uint8)),), broken


@jax.jit
def _gate(p: Tree, sums: jax.Array, size: Sizes) -> jax.Array:
    return fast_sr.gate(p, sums, *size)


def enlarge_strips(
    p: Tree,
    image: jax.Array,
    height: jax.Array,
    width: jax.Array,
    scale: int,
    strip: int,
    planes: Planes | None = None,
    rounding_offset: float | None = None,
) -> Any:
    """`fast_sr.enlarge_whole` in strips of `strip` rows (an even number); `planes` says where planes are kept.

    With a `rounding_offset` the result has 8 bits: level = floor(255 value + offset), which saves memory.

    Raises:
        ImageError: a result of 8 bits would hide values that are not finite.
    """
    planes = planes or InMemory()
    batch, rows, columns, _ = image.shape
    dtype = p["head"]["kernel"].dtype
    grid, size = Grid(rows, columns, strip), (height, width)
    source = planes.load(image, grid)
    channels = p["head"]["bias"].shape[0]
    empty = tuple(planes.take(grid, batch, channels, dtype) for _ in range(2))
    head = {name: p[name] for name in ("head", "fusion", "fusion_bias")}
    (x, total), _ = planes.run(_first, (grid,), (grid, grid), (source,), empty, (size,), head)
    for i in range(STAGES):
        (x,), sums = planes.run(_reversed_u, (grid,), (grid,), (None,), (x,), (size,), p[f"rub_{i}"])
        factor = _gate(p[f"ca_{i}"], sums, size)
        (x, total), _ = planes.run(
            _dense, (grid,) * 2, (grid,) * 2, (None, None), (x, total), (size,) * 2, p[f"rdb_{i}"],
            p["fusion"][i + 1], factor,
        )  # fmt: skip
    del x
    (total,), sums = planes.run(_fused, (grid,), (grid,), (None,), (total,), (size,))
    factor = _gate(p["fusion_ca"], sums, size)
    fine = grid.finer(scale)
    exact = jnp.promote_types(dtype, jnp.float32)
    empty_image = planes.result(fine, batch, 3, exact if rounding_offset is None else jnp.uint8)
    tail = {name: p[name] for name in ("up", "refine_0", "refine_2")}
    offset = None if rounding_offset is None else jnp.asarray(rounding_offset, exact)
    (out,), broken = planes.run(
        _finish, (grid, grid), (fine,), (total, source), (empty_image,), (size, size), tail, factor, offset
    )
    if rounding_offset is not None and int(broken):
        raise ImageError(f"{int(broken)} values of the enlarged image are NaN or infinite")
    return planes.rows(out, fine)
