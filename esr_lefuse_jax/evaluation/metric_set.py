"""All metrics an evaluation knows: those of `metrics`, LPIPS, and a NIQE model of one's own."""

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np

from esr_lefuse_jax.errors import ConfigError, MetricError
from esr_lefuse_jax.images import read_visible
from esr_lefuse_jax.metrics import METRICS, naturalness
from esr_lefuse_jax.metrics.registry import Metric
from esr_lefuse_jax.pairs import list_images


def _lpips(reference: np.ndarray, image: np.ndarray, net: str) -> float:
    from esr_lefuse_jax.evaluation.lpips import lpips  # the one metric that needs JAX

    return lpips(reference, image, net)  # type: ignore[arg-type]


LPIPS = {
    name: Metric(
        name,
        title,
        "reference",
        functools.partial(_lpips, net=net),
        f"version 0.1, {label} features and linear heads",
        higher_is_better=False,
        digits=4,
    )
    for name, title, net, label in (
        ("lpips", "LPIPS", "alexnet", "AlexNet"),
        ("lpips_vgg", "LPIPS (VGG)", "vgg16", "VGG16"),
    )
}


def all_metrics(niqe_model: str | os.PathLike | None = None) -> dict[str, Metric]:
    """Every metric by name.

    Args:
      niqe_model: a model that `fit_niqe` wrote, in place of the authors'.

    Raises:
      MetricError: the file is no NIQE model.
    """
    known = {**METRICS, **LPIPS}
    if niqe_model:
        model = naturalness.NiqeModel.load(os.fspath(niqe_model))
        known["niqe"] = dataclasses.replace(
            known["niqe"],
            compute=functools.partial(naturalness.niqe, model=model),
            convention=f"own model {Path(niqe_model).name}, 96x96 blocks",
        )
    return known


def fit_niqe(folder: str | os.PathLike, path: str | os.PathLike) -> int:
    """Fits a NIQE model to a folder of sharp photographs and writes it.

    Args:
      folder: the photographs.
      path: where to write the model (.npz).

    Returns:
      How many images the folder has.

    Raises:
      MetricError: the images have too few sharp blocks.
      ConfigError: the path does not end in .npz.
    """
    if not os.fspath(path).endswith(".npz"):
        raise ConfigError(f"--niqe_model {path}: a NIQE model is a .npz file")
    files, _ = list_images(folder)
    if not files:
        raise MetricError(f"{folder}: no images to fit a NIQE model to")
    naturalness.fit(read_visible(file) * 255 for file in files).save(os.fspath(path))
    return len(files)
