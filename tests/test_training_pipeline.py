"""The whole way on rendered pairs: prepare data, fusion, pseudo-HR, super-resolution, joint, infer, eval."""

import csv
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from esr_lefuse_jax import weights
from esr_lefuse_jax.cli import main
from esr_lefuse_jax.images import read_visible
from esr_lefuse_jax.models.rrdb import RRDBNet
from esr_lefuse_jax.training.logging import read_metrics
from esr_lefuse_jax.training.state import initial_variables

pytestmark = pytest.mark.slow

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
# Cheap: one device, small crops, no VGG16, a few steps.
TINY = {
    "batch_size": 2,
    "data.crop": 32,
    "steps": 4,
    "eval.every_steps": 2,
    "log.every_steps": 1,
    "loss.fusion.perceptual": 0.0,
    "loss.sr.perceptual": 0.0,
    "optimizer.warmup_steps": 4,
    "parallel.devices": 1,
    "precision": "float32",
}


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def untrained_teacher(folder):
    """The smallest RRDBNet that there are weights of, with the weights it would start training from."""
    variables = initial_variables(RRDBNet(num_blocks=6), (jnp.zeros((1, 8, 8, 3)),), 0)
    weights.save_safetensors(folder / "teacher.safetensors", "rrdb", variables)
    return folder / "teacher.safetensors"


def train(config, workdir, **changes):
    flags = [f"--config.{key}={value}" for key, value in {**TINY, **changes}.items()]
    run("train", f"--config={CONFIGS / config}.py", f"--workdir={workdir}", *flags)
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines if line["split"] == "validation"] == [0, 2, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    return workdir


def test_from_pairs_to_a_measured_4x_picture(tmp_path):
    pairs, prepared = tmp_path / "pairs", tmp_path / "prepared"
    run("prepare-data", "--rendered", 6, "--size", "64x48", "--out_dir", pairs)
    run("prepare-data", "--root", pairs, "--out_dir", prepared)

    fusion = train("fusion", tmp_path / "fusion", **{"data.train": prepared})

    teacher = untrained_teacher(tmp_path)
    run(
        "make-pseudo-hr", "--root", pairs, "--fusion_ckpt", fusion / "best.safetensors", "--teacher_ckpt", teacher,
        "--out_dir", tmp_path / "pseudo", "--count", 6, "--crop", 24,
    )  # fmt: skip
    lr_hr = tmp_path / "pseudo" / "lr_hr_pairs"
    sr = train("sr", tmp_path / "sr", **{"data.train": f"pseudo_hr:{lr_hr}", "data.crop": 12})

    with_terms = tmp_path / "with_terms.safetensors"
    variables = weights.load_weights(fusion / "best.safetensors").variables
    weights.save_safetensors(with_terms, "fusion", variables, {"terms": "for friends"})
    joint = train(
        "joint",
        tmp_path / "joint",
        **{
            "data.train": pairs,
            "init.fusion": with_terms,
            "init.sr": sr / "checkpoints" / "4" / "sr",
            "loss.teacher": teacher,
            "data.crop": 16,
        },
    )
    for name in ("fusion", "sr"):
        loaded = weights.load_weights(joint / f"best_{name}.safetensors")
        assert loaded.network == name
        assert loaded.metadata["terms"] == "for friends", "of what it was trained from"
    assert "terms" not in weights.load_weights(sr / "best.safetensors").metadata

    out = tmp_path / "out"
    run(
        "infer", "--ir_dir", pairs / "ir", "--vis_dir", pairs / "vi", "--out_dir", out, "--save_lr", tmp_path / "lr",
        "--fusion_ckpt", joint / "best_fusion.safetensors", "--sr_ckpt", joint / "best_sr.safetensors",
    )  # fmt: skip
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 6
    assert read_visible(pictures[0]).shape == (192, 256, 3)

    results = tmp_path / "eval"
    run(
        "eval", "--pred_dir", out, "--lr_dir", tmp_path / "lr", "--gt_baseline", "bicubic4x",
        "--metrics", "psnr", "ssim", "en", "--out_dir", results,
    )  # fmt: skip
    tables = [path for path in results.rglob("*") if path.suffix in (".csv", ".json")]
    assert tables
    text = "".join(path.read_text() for path in tables)
    assert "psnr" in text
    for path in tables:
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert len(list(csv.reader(path.open()))) > 1


@pytest.mark.parametrize("supervision", ["teacher", "self", "mixed"])
def test_supervisions_of_super_resolution(tmp_path, supervision):
    """Each kind of reference through a step and an evaluation."""
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(photos / f"{i}.png")
    teacher = untrained_teacher(tmp_path)
    source = {"teacher": f"teacher:{photos}", "self": f"self:{photos}"}.get(
        supervision, f"photo:{photos}@2,teacher:{photos}@1"
    )
    config = "sr_teacher" if supervision != "self" else "sr_photo"
    train(
        config, tmp_path / "run",
        **{"data.train": source, "data.crop": 12, "loss.teacher": teacher, "early_stopping.metric": "psnr"},
    )  # fmt: skip
    lines = read_metrics(tmp_path / "run")
    if supervision != "teacher":
        assert lines[0]["psnr"] == pytest.approx(lines[0]["psnr_bicubic"], abs=1e-3)
