"""The pipeline a user calls: a visible and an infrared image in, the fused image and its enlargement out."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esr_lefuse_jax.color import rgb_to_ycrcb, ycrcb_to_rgb
from esr_lefuse_jax.errors import ConfigError, ImageError
from esr_lefuse_jax.image_writing import Rounding, quantise
from esr_lefuse_jax.inference import ensemble as self_ensemble
from esr_lefuse_jax.inference import fast_fusion, fast_sr, strips
from esr_lefuse_jax.inference.canvas import Canvases
from esr_lefuse_jax.inference.disk_planes import OnDisk
from esr_lefuse_jax.inference.memory import Plan, plan_enlargement, plan_fusion
from esr_lefuse_jax.inference.streaming import COMPILER_OPTIONS, InMemory, Planes
from esr_lefuse_jax.weights import load_weights, weights_hash
from esr_lefuse_jax.weights_shipped import shipped_path

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Result:
    """What the pipeline gives for a pair, in the layout of the input.

    Attributes:
        fused: fused image (H, W, 3) or (N, H, W, 3), float32 in [0, 1].
        hr: enlarged image (scale*H, scale*W, 3) or (N, ...), float32 in [0, 1], or uint8 if so asked; None without
            an SR network.
    """

    fused: np.ndarray
    hr: np.ndarray | None


class Pipeline:
    """Both stages with fixed weights, on one device.

    Call it with a pair; `fuse` and `enlarge` run one stage alone. Programs are compiled for padded shapes and
    reused; `prepare_for` opens them for a list of sizes known in advance.

    Args:
        fusion: variables of `FusionUNet`.
        sr: variables of `ESRUNet`, or None for fusion alone.
        ensemble: `none`, `x4`, `x8` or `reference` (see `inference.ensemble`).
        dtype: `float32`, `bfloat16` or `float16` for the arithmetic of both networks.
        gray: leave out the visible image's colour.
        max_memory: bytes that activations may take; by default a share of the device's memory.
        device: a JAX device; the default one if None.

    Raises:
        ConfigError: an option has no such value.
    """

    def __init__(
        self,
        fusion: Mapping[str, Any],
        sr: Mapping[str, Any] | None = None,
        *,
        ensemble: str = "none",
        dtype: str = "float32",
        gray: bool = False,
        max_memory: int | None = None,
        device: Any = None,
    ):
        if ensemble not in self_ensemble.ENSEMBLES:
            raise ConfigError(f"ensemble {ensemble!r}: one of {', '.join(self_ensemble.ENSEMBLES)}")
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r}: one of {', '.join(DTYPES)}")
        self.ensemble, self.dtype, self.gray, self.max_memory = ensemble, dtype, gray, max_memory
        self.device = device or jax.devices()[0]
        self.canvases = Canvases()
        # Buffers of stage 1 between two images of a shape, with the plan they were made for; at most one entry.
        self._kept: dict[tuple, tuple[Plan, Planes]] = {}
        arithmetic = jnp.dtype(dtype)
        self._fusion = jax.device_put(fast_fusion.prepare(fusion, arithmetic), self.device)
        self.scale = None if sr is None else fast_sr.scale_of(sr)
        self._sr = None if sr is None else jax.device_put(fast_sr.prepare(sr, arithmetic), self.device)

    def prepare_for(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Chooses padded shapes for images of these (height, width)."""
        self.canvases.plan(sizes)

    def __call__(self, visible: np.ndarray, infrared: np.ndarray, rounding: Rounding | None = None) -> Result:
        """Fuses and enlarges a pair or a batch of pairs of one size.

        Args:
            visible: (H, W, 3) or (N, H, W, 3), uint8 or float in [0, 1].
            infrared: (H, W), (H, W, 1) or (N, H, W, 1), uint8 or float in [0, 1].
            rounding: gives the enlarged image in 8 bits, a quarter of the memory (`image_writing.quantise`).

        Raises:
            ImageError: shapes do not fit together, or values are outside [0, 1] or not finite.
        """
        fused = self.fuse(visible, infrared)
        return Result(fused, None if self._sr is None else self.enlarge(fused, rounding))

    def fuse(self, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        """Runs stage 1: the fused image in RGB, float32 in [0, 1], in the layout of `visible`."""
        single = np.ndim(visible) == 3
        rgb, thermal = _as_images(visible, "visible", 3), _as_images(infrared, "infrared", 1)
        if rgb.shape[:3] != thermal.shape[:3]:
            raise ImageError(
                f"visible image of shape {np.shape(visible)} and infrared image of shape {np.shape(infrared)}: "
                "sizes must agree"
            )
        n, h, w, _ = rgb.shape
        canvas = self.canvases.fit(h, w)
        kind = (n, canvas, self.max_memory)
        plan, planes = self._take_kept(kind) or self._plan_fusion(n, canvas)
        padded = _padded(rgb, canvas), _padded(thermal, canvas)
        fused = np.asarray(self._run_fusion(*padded, _sizes(n, h, w), plan, planes))[:, :h, :w]
        # Put back only now: an image that failed or is not finite leaves nothing behind for the next.
        if plan.strip is not None and not plan.on_disk and np.isfinite(np.sum(fused)):
            self._kept = {kind: (plan, planes)}
        return fused[0] if single else fused

    def enlarge(self, image: np.ndarray, rounding: Rounding | None = None) -> np.ndarray:
        """Runs stage 2 on an RGB image (H, W, 3) or (N, H, W, 3): float32 in [0, 1], `scale` times the size.

        With a `rounding` the result is uint8.
        """
        if self._sr is None:
            raise ConfigError("this pipeline has no super-resolution weights: give them to load()")
        single = np.ndim(image) == 3
        images = _as_images(image, "image", 3)
        self._kept = {}  # stage 2 needs the memory
        if rounding and self.ensemble == "none" and not self.gray:
            result = self._enlarge_once(images, rounding)
            return result[0] if single else result
        result = self_ensemble.run(self._enlarge_once, images, self.ensemble)
        if self.gray:
            luminance = result @ np.array([0.299, 0.587, 0.114], np.float32)
            result = np.broadcast_to(luminance[..., None], result.shape)
        if rounding:
            result = quantise(result, rounding=rounding)
        return result[0] if single else result

    @property
    def _itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize

    def _take_kept(self, kind: tuple) -> tuple[Plan, Planes] | None:
        """The plan and the buffers of the image before, for this thread alone, if they are of this kind.

        With the plan, since what is kept is not free memory: planned anew, the same images would find less.
        """
        kept = self._kept.pop(kind, None)
        if kept is None:
            self._kept = {}  # freed before anything is planned
        return kept

    def _plan_fusion(self, n: int, canvas: tuple[int, int]) -> tuple[Plan, Planes]:
        plan = plan_fusion(n, canvas, self._itemsize, self.max_memory, self.device)
        return plan, _planes(plan, self.device)

    def _run_fusion(
        self, rgb: np.ndarray, infrared: np.ndarray, sizes: tuple, plan: Plan, planes: Planes
    ) -> jax.Array:
        colour, thermal, height, width = jax.device_put((rgb, infrared, *sizes), self.device)
        if plan.strip is None:
            return _fuse_whole(self._fusion, colour, thermal, height, width, gray=self.gray)
        fused = strips.fuse_strips(
            self._fusion, _luminance(colour), thermal, height, width, plan.strip, planes
        )
        return _recolour(fused, colour, gray=self.gray)

    def _enlarge_once(self, image: np.ndarray, rounding: Rounding | None = None) -> np.ndarray:
        assert self.scale is not None
        assert self._sr is not None
        n, h, w, _ = image.shape
        canvas = self.canvases.fit(h, w)
        plan = plan_enlargement(n, canvas, self.scale, self._itemsize, self.max_memory, self.device)
        padded, height, width = jax.device_put((_padded(image, canvas), *_sizes(n, h, w)), self.device)
        if plan.strip is None:
            whole = _enlarge_whole(self._sr, padded, height, width, scale=self.scale)
            out = np.asarray(whole)[:, : h * self.scale, : w * self.scale]
            return quantise(out, rounding=rounding) if rounding else out
        offset = None if rounding is None else 0.5 if rounding == "nearest" else 0.0
        out = strips.enlarge_strips(
            self._sr, padded, height, width, self.scale, plan.strip, _planes(plan, self.device), offset
        )
        return np.asarray(out)[:, : h * self.scale, : w * self.scale]


def _planes(plan: Plan, device: Any) -> Planes:
    return OnDisk() if plan.on_disk else InMemory(device)


def load(
    fusion: str | os.PathLike[str] | None = None,
    sr: str | os.PathLike[str] | None = None,
    *,
    ensemble: str = "none",
    dtype: str = "float32",
    scale: int | None = None,
    gray: bool = False,
    fusion_only: bool = False,
    max_memory: int | None = None,
    device: Any = None,
) -> Pipeline:
    """Loads both networks and returns the pipeline.

    Args:
        fusion: fusion weights, `.pth`, `.safetensors` or an Orbax folder, or the name of a set of the package (`open`,
            `research`); `open` if None.
        sr: super-resolution weights, likewise.
        ensemble: `none`, `x4`, `x8` or `reference`.
        dtype: `float32`, `bfloat16` or `float16`.
        scale: refuse super-resolution weights for another scale; any if None.
        gray: fused images without the visible image's colour.
        fusion_only: no super-resolution; `Result.hr` is None.
        max_memory: bytes that activations may take.
        device: a JAX device.

    Raises:
        CheckpointError: a file is damaged, unsafe or not the network it should be.
        ConfigError: an option has no such value, or the weights are for another scale.
    """
    weights = load_variables(fusion, sr, scale=scale, fusion_only=fusion_only)
    return Pipeline(
        weights.fusion,
        weights.sr,
        ensemble=ensemble,
        dtype=dtype,
        gray=gray,
        max_memory=max_memory,
        device=device,
    )


@dataclasses.dataclass(frozen=True)
class PairOfWeights:
    """The variables of both networks, with what a report says of them.

    Attributes:
        fusion: variables of `FusionUNet`.
        sr: variables of `ESRUNet`, or None.
        hashes: SHA-256 of each network's weights, by network.
        notes: one line for each network: where its weights come from.
    """

    fusion: Mapping[str, Any]
    sr: Mapping[str, Any] | None
    hashes: dict[str, str]
    notes: list[str]


def load_variables(
    fusion: str | os.PathLike[str] | None,
    sr: str | os.PathLike[str] | None,
    *,
    scale: int | None = None,
    fusion_only: bool = False,
) -> PairOfWeights:
    """Reads the weights of both networks; see `load` for arguments and errors."""
    found = {"fusion": load_weights(fusion or shipped_path("fusion"), "fusion")}
    if not fusion_only:
        found["sr"] = load_weights(sr or shipped_path("sr"), "sr")
        actual = fast_sr.scale_of(found["sr"].variables)
        if scale is not None and actual != scale:
            raise ConfigError(
                f"{found['sr'].path}: these weights enlarge {actual} times, not {scale}: "
                f"give others, or --scale {actual}"
            )
    hashes = {network: weights_hash(loaded.variables) for network, loaded in found.items()}
    notes = []
    for network, loaded in found.items():
        terms = f"; {loaded.terms}" if loaded.terms else ""
        notes.append(f"{network} weights: {loaded.path} ({hashes[network][:12]}{terms})")
    return PairOfWeights(
        found["fusion"].variables, found["sr"].variables if "sr" in found else None, hashes, notes
    )


def _as_images(image: np.ndarray, name: str, channels: int) -> np.ndarray:
    """Brings an image to float32 (N, H, W, channels) in [0, 1]."""
    image = np.asarray(image)
    given = image.shape
    if channels == 1 and image.ndim == 2:
        image = image[..., None]
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] != channels or 0 in image.shape:
        wanted = (
            "(H, W), (H, W, 1) or (N, H, W, 1)"
            if channels == 1
            else f"(H, W, {channels}) or (N, H, W, {channels})"
        )
        raise ImageError(f"{name} image of shape {given}: needs {wanted}")
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"{name} image of type {image.dtype}: needs uint8, or floats in [0, 1]")
    low, high = image.min(), image.max()
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also false for NaN
        raise ImageError(
            f"{name} image has values from {low:g} to {high:g}: floats must be finite and in [0, 1]"
        )
    return image.astype(np.float32, copy=False)


def _padded(image: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    below, right = canvas[0] - image.shape[1], canvas[1] - image.shape[2]
    if not below and not right:
        return image
    return np.pad(image, ((0, 0), (0, below), (0, right), (0, 0)))


def _sizes(n: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, height, np.int32), np.full(n, width, np.int32)


@jax.jit
def _luminance(rgb: jax.Array) -> jax.Array:
    return rgb_to_ycrcb(rgb)[0]


@functools.partial(jax.jit, static_argnames="gray")
def _recolour(fused: jax.Array, rgb: jax.Array, gray: bool) -> jax.Array:
    if gray:
        return jnp.broadcast_to(fused, rgb.shape)
    _, cr, cb = rgb_to_ycrcb(rgb)
    return ycrcb_to_rgb(fused, cr, cb)


@functools.partial(jax.jit, static_argnames="gray", compiler_options=COMPILER_OPTIONS)
def _fuse_whole(p, rgb, infrared, height, width, gray: bool) -> jax.Array:
    y, _, _ = rgb_to_ycrcb(rgb)
    return _recolour(fast_fusion.fuse_whole(p, y, infrared, height, width), rgb, gray)


@functools.partial(jax.jit, static_argnames="scale", compiler_options=COMPILER_OPTIONS)
def _enlarge_whole(p, image, height, width, scale: int) -> jax.Array:
    return fast_sr.enlarge_whole(p, image, height, width, scale)
