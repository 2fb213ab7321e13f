"""The run behind `reproduce-tables`, with enlargement by hand in place of the networks, and as a command."""

import dataclasses
import json

import networks
import numpy as np
import pytest
from eval_folders import make_pairs, picture, save
from PIL import Image

from esr_lefuse_jax import metrics
from esr_lefuse_jax.cli import main
from esr_lefuse_jax.errors import ConfigError, ImageError
from esr_lefuse_jax.evaluation import reproduce
from esr_lefuse_jax.weights import save_safetensors


@dataclasses.dataclass
class Result:
    fused: np.ndarray
    hr: np.ndarray | None


class Mean:
    """A pipeline: the mean of both images, enlarged by Lanczos."""

    def __init__(self, fail=()):
        self.calls = 0
        self.fail = fail

    def __call__(self, visible, infrared):
        self.calls += 1
        if self.calls in self.fail:
            raise ImageError("that pair is bad")
        fused = (visible + infrared[..., None]) / 2
        levels = Image.fromarray(np.rint(fused * 255).astype(np.uint8))
        large = levels.resize((levels.width * 4, levels.height * 4), Image.Resampling.LANCZOS)
        return Result(fused, np.asarray(large).astype(np.float32) / 255)


@pytest.fixture
def llvip(tmp_path):
    """Pairs in the layout of LLVIP as downloaded."""
    make_pairs(tmp_path / "made")
    for kind, name in (("ir", "infrared"), ("vi", "visible")):
        (tmp_path / "LLVIP" / name).mkdir(parents=True)
        (tmp_path / "made" / kind).rename(tmp_path / "LLVIP" / name / "test")
    return tmp_path / "LLVIP"


def run(pairs, pipeline, path, **options):
    settings = options.pop("settings", {"fusion": "aa"})
    return reproduce.run(pairs, pipeline, path, settings, progress=lambda items: items, **options)


def test_figures_are_those_of_the_written_images(llvip, tmp_path):
    pairs, problems = reproduce.pairs_of(llvip)
    assert [pair.stem for pair in pairs] == ["a", "b", "c"]
    assert problems == []
    results = run(pairs, Mean(), tmp_path / "rows.jsonl")
    visible, infrared = (np.asarray(Image.open(p)) for p in (pairs[1].visible, pairs[1].infrared))
    fused = np.rint((visible.astype(float) + infrared[..., None]) / 2 + 1e-9)
    row = next(r for r in results.rows if (r.stem, r.stage) == ("b", "fused"))
    assert row.values["en"] == pytest.approx(metrics.entropy(fused), abs=0.02)
    assert row.values["ag"] == pytest.approx(metrics.average_gradient(fused), rel=0.01)
    row = next(r for r in results.rows if (r.stem, r.stage) == ("b", "enlarged"))
    assert set(row.values) == {"psnr_vs_bicubic", "ssim_vs_bicubic", "lr_consistency"}
    assert 30 < row.values["psnr_vs_bicubic"] < 60


def test_table_shows_the_published_figures(llvip, tmp_path):
    pairs, _ = reproduce.pairs_of(llvip)
    results = run(pairs, Mean(), tmp_path / "rows.jsonl")
    text = reproduce.table("llvip", "LLVIP", results)
    for figure in ("7.780", "63.60", "22.21", "11.570", "3.160", "37.81", "0.9667"):
        assert f"| {figure} |" in text
    mean = results.mean("enlarged", reproduce.METHOD, "psnr_vs_bicubic").value
    assert f"| {mean:.2f} | 37.81 | {mean - 37.81:+.2f} | 3 |" in text
    assert text.count("| 11.570 |") == 2
    assert "not defined" in text  # NIQE of such small images
    assert "7.780" not in reproduce.table("m3fd", "M3FD", results)


def test_resume_measures_only_what_is_missing(llvip, tmp_path):
    pairs, _ = reproduce.pairs_of(llvip)
    path = tmp_path / "rows.jsonl"
    whole = run(pairs, Mean(), path)
    text = path.read_text()
    # As after a kill: two pairs done, the line of the third cut off.
    path.write_text(text[: len(text) - 40])
    pipeline = Mean()
    again = run(pairs, pipeline, path, resume=True)
    assert pipeline.calls == 1
    assert again.rows == whole.rows
    pipeline = Mean()
    assert run(pairs, pipeline, path, resume=True).rows == whole.rows
    assert pipeline.calls == 0
    with pytest.raises(ConfigError, match="fusion differ"):
        run(pairs, Mean(), path, resume=True, settings={"fusion": "bb"})
    path.write_text("nonsense\n")
    with pytest.raises(ConfigError, match="cannot be resumed"):
        run(pairs, Mean(), path, resume=True)


def test_a_bad_pair_is_named_and_the_rest_go_on(llvip, tmp_path):
    pairs, _ = reproduce.pairs_of(llvip)
    results = run(pairs, Mean(fail=(2,)), tmp_path / "rows.jsonl")
    assert results.problems == ("that pair is bad",)
    assert results.common["fused"] == ("a", "c")


def test_fusion_only(llvip, tmp_path):
    pairs, _ = reproduce.pairs_of(llvip)
    alone = lambda visible, infrared: Result(visible, None)  # noqa: E731
    results = run(pairs, alone, tmp_path / "rows.jsonl", enlarge=False)
    assert set(results.columns) == {"fused"}
    assert results.mean("fused", reproduce.METHOD, "en").count == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out_dir", "x"], "nothing to run on"),
        (["--llvip", "missing", "--out_dir", "x"], "missing: no such folder"),
        (["--llvip", "missing", "--batches", "0", "--out_dir", "x"], "--batches 0"),
    ],
)
def test_command_errors(capsys, arguments, message):
    assert main(["reproduce-tables", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_command_with_the_network(tmp_path, capsys):
    """The fusion network with formula weights, at a size that other tests have compiled already."""
    for number, stem in enumerate("abc"):
        image = picture(number, 64, 64)[:24, :40]
        save(tmp_path / "M3FD" / "Vis" / f"{stem}.png", image)
        save(tmp_path / "M3FD" / "Ir" / f"{stem}.png", image[..., 0])
    weights = str(tmp_path / "fusion.safetensors")
    save_safetensors(weights, "fusion", networks.variables("fusion"), {})
    out = tmp_path / "tables"
    arguments = ["--m3fd", str(tmp_path / "M3FD"), "--batches", "2", "--out_dir", str(out), "--fusion_only"]
    assert main(["reproduce-tables", *arguments, "--fusion_ckpt", weights]) == 0
    assert "| fused | EN |" in (out / "tables.md").read_text()
    saved = json.loads((out / "m3fd.json").read_text())
    assert [row["stage"] for row in saved["rows"]] == ["fused", "fused"]
    assert len(saved["record"]["weights"]["fusion"]) == 64
    assert "M3FD: 2 of 3 pairs" in capsys.readouterr().out
