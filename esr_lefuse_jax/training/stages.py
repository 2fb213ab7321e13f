"""What each stage trains: its networks, its objective and what is measured on whole images.

A `Stage` is pure: variables and a batch in, per-example values out. Batches, all (B, H, W, C) float32 in [0,
1]:

* `fusion`: `visible` RGB, `infrared`, `enhanced` E and `target` T, one channel each.
* `sr`: `lr` RGB, and `hr` RGB at `scale` times the size. With the teacher in the mixture `from_teacher` (B,)
  says which examples take the teacher's enlargement of `lr` instead of `hr`.
* `joint`: as `fusion`, and optionally `hr`: the high-resolution truth.

In evaluation a batch also has `valid` (B,), zeros for examples that only fill it up, and `mask` (B, H, W, 1),
zeros for padded pixels.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from esr_lefuse_jax import color
from esr_lefuse_jax.config import NETWORKS
from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.losses import fusion_objective, super_resolution_objective, terms, weighted_sum
from esr_lefuse_jax.models.fusion import FusionUNet
from esr_lefuse_jax.models.rrdb import RRDBNet
from esr_lefuse_jax.models.sr import ESRUNet
from esr_lefuse_jax.models.vgg import VGG16Features
from esr_lefuse_jax.ops.resize import bicubic
from esr_lefuse_jax.training.teacher import TEACHER_SCALE, box_down, teach

Batch = Mapping[str, jax.Array]
Tree = dict[str, Any]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclasses.dataclass
class Outcome:
    """What one forward pass gave.

    Attributes:
        loss: (N,) the objective.
        values: (N,) values by name: the terms of the objective, unweighted, and in evaluation the metrics.
        batch_stats: updated running statistics.
        pictures: images (N, h, w, 1 or 3) by name, in the order in which to show them.
    """

    loss: jax.Array
    values: dict[str, jax.Array]
    batch_stats: Tree
    pictures: dict[str, jax.Array]


class Stage:
    """The networks and the objective of one stage.

    Attributes:
        networks: trained modules by name.
        frozen: modules with fixed weights by name (`vgg16`, `rrdb`), only those that the objective needs.
    """

    def __init__(self, config: ConfigDict, needs_teacher: bool = False):
        """Builds the modules.

        Args:
            config: a validated config.
            needs_teacher: whether the super-resolution data leaves references to the teacher.

        Raises:
            ConfigError: the teacher is needed at another scale than its own.
        """
        dtype = DTYPES[config.precision]
        self.config = config
        self.name: str = config.stage
        self.scale: int = config.model.scale
        available = {
            "fusion": FusionUNet(dtype=dtype),
            "sr": ESRUNet(scale=self.scale, dtype=dtype),
        }
        # Any: flax types `apply` as a result that may be a pair.
        self.networks: dict[str, Any] = {name: available[name] for name in NETWORKS[self.name]}
        self.frozen: dict[str, Any] = {}
        if any(config.loss[name].perceptual for name in self.networks):
            self.frozen["vgg16"] = VGG16Features(dtype=dtype)
        if needs_teacher or (self.name == "joint" and config.loss.joint.supervision == "teacher"):
            if self.scale != TEACHER_SCALE:
                raise ConfigError(f"the teacher enlarges 4 times, config.model.scale is {self.scale}")
            self.frozen["rrdb"] = functools.partial(
                RRDBNet, dtype=dtype
            )  # as many blocks as its weights have

    def example_inputs(self) -> dict[str, tuple[jax.Array, ...]]:
        """Small inputs of each network, for initialisation."""
        gray, rgb = jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 8, 8, 3))
        inputs = {"fusion": (gray, gray), "sr": (rgb,)}
        return {name: inputs[name] for name in self.networks}

    def run(self, params: Tree, batch_stats: Tree, frozen: Tree, batch: Batch, train: bool) -> Outcome:
        """One forward pass with everything that is measured on it.

        Args:
            params: trained parameters by network.
            batch_stats: running statistics by network.
            frozen: variables of the frozen networks.
            batch: see the module's docstring.
            train: batch statistics in the batch norms unless `model.freeze_batch_norm`, and the whole objective;
                otherwise running statistics, the perceptual term only if `eval.perceptual`, and the metrics besides.
        """
        runs = {"fusion": self._run_fusion, "sr": self._run_sr, "joint": self._run_joint}
        return runs[self.name](params, batch_stats, frozen, batch, train)

    def _weights(self, name: str, train: bool) -> dict[str, float]:
        weights = dict(self.config.loss[name].items())
        if not train and not self.config.eval.perceptual:
            weights["perceptual"] = 0.0
        return weights

    def _extract(self, frozen: Tree):
        if "vgg16" not in self.frozen:
            return None
        return lambda images: self.frozen["vgg16"].apply(frozen["vgg16"], images)

    def _fuse(self, params: Tree, batch_stats: Tree, batch: Batch, train: bool):
        """Returns the fused luminance, the visible Y, Cr, Cb and the new running statistics."""
        y, cr, cb = color.rgb_to_ycrcb(batch["visible"])
        variables = {"params": params["fusion"], "batch_stats": batch_stats["fusion"]}
        network = self.networks["fusion"]
        if train and not self.config.model.freeze_batch_norm:
            fused, updated = network.apply(
                variables, y, batch["infrared"], train=True, mutable=["batch_stats"]
            )
            return fused, (y, cr, cb), {"fusion": updated["batch_stats"]}
        return network.apply(variables, y, batch["infrared"]), (y, cr, cb), batch_stats

    def _run_fusion(
        self, params: Tree, batch_stats: Tree, frozen: Tree, batch: Batch, train: bool
    ) -> Outcome:
        fused, (y, cr, cb), new_stats = self._fuse(params, batch_stats, batch, train)
        mask, weights = batch.get("mask"), self._weights("fusion", train)
        values = fusion_objective(fused, {**batch, "luminance": y}, weights, self._extract(frozen), mask)
        loss = weighted_sum(values, weights)
        pictures = {}
        if not train:
            values["ssim_enhanced"] = terms.ssim(fused, batch["enhanced"], mask)
            values["ssim_infrared"] = terms.ssim(fused, batch["infrared"], mask)
            pictures = {
                "visible": batch["visible"],
                "infrared": batch["infrared"],
                "target": color.ycrcb_to_rgb(batch["target"], cr, cb),
                "fused": color.ycrcb_to_rgb(fused, cr, cb),
            }
        return Outcome(loss, values, new_stats, pictures)

    def _run_sr(self, params: Tree, batch_stats: Tree, frozen: Tree, batch: Batch, train: bool) -> Outcome:
        lr = batch["lr"]
        reference = batch.get("hr")
        if "rrdb" in self.frozen:
            taught = self._teach(frozen, lr)
            if reference is None:
                reference = taught
            elif "from_teacher" in batch:
                reference = jnp.where(batch["from_teacher"][:, None, None, None] > 0, taught, reference)
        assert reference is not None, "a batch without hr needs the teacher"
        loss, values, pictures = self._enlarge(params, frozen, lr, reference, batch.get("mask"), train)
        return Outcome(loss, values, batch_stats, pictures)

    def _run_joint(self, params: Tree, batch_stats: Tree, frozen: Tree, batch: Batch, train: bool) -> Outcome:
        fusion_params, sr_params = {"fusion": params["fusion"]}, {"sr": params["sr"]}
        fused, (y, cr, cb), new_stats = self._fuse(fusion_params, batch_stats, batch, train)
        mask, weights = batch.get("mask"), self._weights("fusion", train)
        fusion_values = fusion_objective(
            fused, {**batch, "luminance": y}, weights, self._extract(frozen), mask
        )
        fusion_loss = weighted_sum(fusion_values, weights)

        lr = color.ycrcb_to_rgb(fused, cr, cb)
        # References are made from the target, not from the fused image: a truth must not follow the network.
        wanted = color.ycrcb_to_rgb(batch["target"], cr, cb)
        if "hr" in batch:
            reference, sr_mask = batch["hr"], mask
        elif "rrdb" in self.frozen:
            reference, sr_mask = self._teach(frozen, wanted), mask
        else:
            reference = _whole_cells(wanted, self.scale)
            lr = box_down(_whole_cells(lr, self.scale), self.scale)
            sr_mask = (
                None if mask is None else jnp.floor(box_down(_whole_cells(mask, self.scale), self.scale))
            )
        sr_loss, sr_values, sr_pictures = self._enlarge(sr_params, frozen, lr, reference, sr_mask, train)

        values = {f"fusion_{k}": v for k, v in fusion_values.items()} | {
            f"sr_{k}": v for k, v in sr_values.items()
        }
        loss = self.config.loss.joint.fusion * fusion_loss + self.config.loss.joint.sr * sr_loss
        pictures = {}
        if not train:
            values["psnr"], values["ssim"] = values.pop("sr_psnr"), values.pop("sr_ssim")
            pictures = {"visible": batch["visible"], "infrared": batch["infrared"], **sr_pictures}
        return Outcome(loss, values, new_stats, pictures)

    def _teach(self, frozen: Tree, lr: jax.Array) -> jax.Array:
        blocks = sum(name.startswith("body_") for name in frozen["rrdb"]["params"])
        network = self.frozen["rrdb"](num_blocks=blocks)
        return teach(lambda x: network.apply(frozen["rrdb"], x), lr)

    def _enlarge(
        self,
        params: Tree,
        frozen: Tree,
        lr: jax.Array,
        reference: jax.Array,
        mask: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        """Loss, values and pictures of the super-resolution network on `lr`; the mask belongs to `lr`."""
        output = self.networks["sr"].apply({"params": params["sr"]}, lr)
        if mask is not None:
            mask = jnp.repeat(jnp.repeat(mask, self.scale, axis=1), self.scale, axis=2)
        weights = self._weights("sr", train)
        values = super_resolution_objective(output, reference, weights, self._extract(frozen), mask)
        loss = weighted_sum(values, weights)
        if train:
            return loss, values, {}
        plain = jnp.clip(bicubic(lr, self.scale), 0, 1)
        values["psnr"], values["ssim"] = (
            terms.psnr(output, reference, mask),
            terms.ssim(output, reference, mask),
        )
        values["psnr_bicubic"] = terms.psnr(plain, reference, mask)
        return loss, values, {"bicubic": plain, "output": output, "reference": reference}


def _whole_cells(x: jax.Array, scale: int) -> jax.Array:
    """Crops (N, H, W, C) to multiples of `scale`."""
    return x[:, : x.shape[1] // scale * scale, : x.shape[2] // scale * scale]
