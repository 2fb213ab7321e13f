"""`esr-lefuse eval` as a user calls it: flags, outputs, means, bad files."""

import csv
import json

import numpy as np
import pytest
from eval_folders import make_pairs, make_results, picture, save
from PIL import Image

from esr_lefuse_jax import metrics
from esr_lefuse_jax.cli import main
from esr_lefuse_jax.errors import ConfigError, PairError
from esr_lefuse_jax.evaluation import inputs, provenance, run, tables
from esr_lefuse_jax.evaluation.results import load_results

SEED = ["--gt_baseline", "bicubic4x", "--metrics", "psnr", "ssim", "en", "ag", "sd", "sf", "niqe", "vif"]


def evaluate(*arguments):
    return main(["eval", "--quiet", *map(str, arguments)])


def read(folder, name="results.json"):
    return json.loads((folder / name).read_text())


def means(folder):
    return {(m["stage"], m["method"], m["metric"]): m for m in read(folder)["means"]}


@pytest.fixture
def folders(tmp_path):
    ir, vi = make_pairs(tmp_path / "pairs")
    hr, lr = make_results(tmp_path / "out")
    return {"ir": ir, "vi": vi, "hr": hr, "lr": lr, "root": tmp_path}


def test_the_published_command_line(folders, capsys):
    assert evaluate("--pred_dir", folders["hr"], *SEED, "--out_dir", folders["root"] / "e") == 0
    found = means(folders["root"] / "e")
    image = np.asarray(Image.open(folders["hr"] / "a.png"))
    lr = np.asarray(Image.open(folders["lr"] / "a.png"))
    row = next(
        r for r in read(folders["root"] / "e")["rows"] if r["stem"] == "a" and r["stage"] == "enlarged"
    )
    # The folder of fused images beside the predictions is found by itself, and LR-consistency joins the PSNR.
    assert row["values"]["lr_consistency"] == pytest.approx(metrics.lr_consistency(image, lr))
    up = np.rint(metrics.bicubic_up(lr))
    assert row["values"]["psnr_vs_bicubic"] == pytest.approx(metrics.psnr(up, image))
    assert row["values"]["ssim_vs_bicubic"] == pytest.approx(metrics.ssim(up, image))
    assert row["values"]["vif_vs_bicubic"] == pytest.approx(metrics.vifp(up, image))
    assert row["values"]["en"] == pytest.approx(metrics.entropy(image))
    assert found["enlarged", "x", "psnr_vs_bicubic"]["count"] == 3
    assert found["fused", "x", "en"]["count"] == 3
    printed = capsys.readouterr().out
    assert "PSNR vs bicubic" in printed
    assert "not defined" in printed  # NIQE of the small fused images


def test_all_outputs_agree(folders):
    out = folders["root"] / "e"
    other = folders["root"] / "other"
    for stem in "abc":
        save(other / f"{stem}.png", picture(7))
    code = evaluate(
        "--pred_dir", folders["hr"], "--ir_dir", folders["ir"], "--vis_dir", folders["vi"],
        "--compare", f"other={other}", "--gt_baseline", "bicubic4x", "--out_dir", out,
    )  # fmt: skip
    assert code == 0
    results = load_results(out / "results.json")
    assert results.stage_methods("fused") == ["x", "other"]
    assert results.stage_methods("enlarged") == ["x"]
    with open(out / "means.csv") as file:
        lines = list(csv.DictReader(file))
    by_key = {(line["stage"], line["method"], line["metric"]): line for line in lines}
    for (stage, method, metric), mean in means(out).items():
        line = by_key[stage, method, metric]
        if mean["value"] is None:
            assert line["mean"] == "not defined"
        else:
            assert float(line["mean"]) == mean["value"]
            values = [r.values[metric] for r in results.rows if (r.stage, r.method) == (stage, method)]
            assert mean["value"] == pytest.approx(np.mean(values))
    with open(out / "per_image.csv") as file:
        per_image = list(csv.DictReader(file))
    assert len(per_image) == 9
    assert {line["niqe"] for line in per_image if line["stage"] == "fused"} == {"not defined"}
    qabf = f"{means(out)['fused', 'x', 'qabf']['value']:.3f}"
    assert qabf in (out / "tables.md").read_text()
    assert qabf in (out / "tables.tex").read_text()
    assert r"\bottomrule" in (out / "tables.tex").read_text()
    record = read(out)["record"]
    assert record["versions"]["esr-lefuse-jax"]
    assert "entropy in bits" in json.dumps(read(out)["columns"])
    assert "NaN" not in (out / "results.json").read_text()


def test_fusion_figures_equal_the_library(folders):
    out = folders["root"] / "e"
    evaluate(
        "--lr_dir", folders["lr"], "--ir_dir", folders["ir"], "--vis_dir", folders["vi"], "--out_dir", out
    )
    load = lambda name, kind: np.asarray(Image.open(folders[name] / "b.png").convert(kind))  # noqa: E731
    expected = metrics.fusion_metrics(load("lr", "RGB"), load("ir", "L"), load("vi", "RGB"))
    row = next(r for r in read(out)["rows"] if r["stem"] == "b")
    assert row["method"] == "x_lr"
    for name, value in expected.items():
        assert row["values"].get(name) == (None if value is None else pytest.approx(value)), name


def test_true_references_and_low_resolution_baseline(folders):
    out = folders["root"] / "e"
    gt = folders["root"] / "gt"
    for number, stem in enumerate("abc"):
        save(gt / f"{stem}.png", picture(number, 384, 512))
    assert evaluate("--pred_dir", folders["hr"], "--gt_baseline", "gt", gt, "--out_dir", out) == 0
    assert ("enlarged", "x", "psnr") in means(out)
    assert ("enlarged", "x", "lr_consistency") in means(out)
    assert evaluate("--pred_dir", folders["hr"], "--gt_baseline", "lr", "--out_dir", out) == 0
    found = means(out)
    assert found["enlarged", "x", "psnr_vs_lr"]["value"] == found["enlarged", "x", "lr_consistency"]["value"]


def test_without_fused_images_the_notes_say_what_stands_for_them(folders, capsys):
    alone = folders["hr"].rename(folders["root"] / "alone")
    assert evaluate("--pred_dir", alone, *SEED, "--out_dir", folders["root"] / "e") == 0
    assert "box means of the prediction" in capsys.readouterr().err
    assert "box means" in read(folders["root"] / "e")["record"]["notes"][0]
    assert not any(metric == "lr_consistency" for _, _, metric in means(folders["root"] / "e"))


def test_identical_to_bicubic_is_not_defined_rather_than_infinite(folders):
    large = folders["root"] / "same"
    for stem in "abc":
        lr = np.asarray(Image.open(folders["lr"] / f"{stem}.png"))
        save(large / f"{stem}.png", metrics.bicubic_up(lr, rounded=True))
    out = folders["root"] / "e"
    evaluate("--pred_dir", large, "--lr_dir", folders["lr"], *SEED, "--out_dir", out)
    mean = means(out)["enlarged", "same", "psnr_vs_bicubic"]
    assert (mean["value"], mean["count"], mean["total"]) == (None, 0, 3)
    assert "identical" in json.dumps(read(out)["rows"])


def test_bad_file_is_named_and_the_rest_is_measured(folders, capsys):
    (folders["hr"] / "b.png").write_bytes((folders["hr"] / "b.png").read_bytes()[:3000])
    out = folders["root"] / "e"
    assert evaluate("--pred_dir", folders["hr"], *SEED, "--out_dir", out) == 1
    assert "b.png" in capsys.readouterr().err
    found = means(out)
    assert found["enlarged", "x", "en"]["total"] == 2
    assert found["fused", "x", "en"]["total"] == 3


def test_means_are_over_the_images_that_all_methods_have(folders, capsys):
    other = folders["root"] / "other"
    for stem in "ab":
        save(other / f"{stem}.png", picture(7))
    out = folders["root"] / "e"
    code = evaluate("--lr_dir", folders["lr"], "--compare", f"other={other}", "--out_dir", out)
    assert code == 1
    assert "other: no fused image of c" in capsys.readouterr().err
    found = means(out)
    assert found["fused", "x_lr", "en"]["total"] == found["fused", "other", "en"]["total"] == 2
    assert len(read(out)["rows"]) == 5


def test_baselines_are_written_and_compared(folders):
    pytest.importorskip("cv2", reason="OpenCV is not installed (extra `eval`)")
    out = folders["root"] / "e"
    code = evaluate(
        "--pred_dir", folders["hr"], "--ir_dir", folders["ir"], "--vis_dir", folders["vi"],
        "--baselines", "all", "bicubic", "max+lanczos", "--gt_baseline", "bicubic4x", "--out_dir", out,
    )  # fmt: skip
    assert code == 0
    results = load_results(out / "results.json")
    fusions = ["average", "max", "laplacian", "guided_filter", "clahe_max"]
    assert results.stage_methods("fused") == ["x", *fusions, "max+lanczos"]
    assert results.stage_methods("enlarged") == ["x", "bicubic", "max+lanczos"]
    assert Image.open(out / "baselines" / "max+lanczos" / "hr" / "a.png").size == (512, 384)
    # What a run wrote, a later one compares.
    again = folders["root"] / "again"
    evaluate(
        "--lr_dir", folders["lr"], "--ir_dir", folders["ir"], "--vis_dir", folders["vi"],
        "--compare", f"max={out / 'baselines' / 'max'}", "--out_dir", again,
    )  # fmt: skip
    assert means(again)["fused", "max", "qabf"] == means(out)["fused", "max", "qabf"]


def test_weights_hashes_are_recorded(folders):
    weights = folders["root"] / "w.safetensors"
    weights.write_bytes(b"weights")
    (folders["hr"] / ".esr_lefuse.json").write_text('{"fusion": "aa", "sr": "bb", "ensemble": "x4"}')
    out = folders["root"] / "e"
    evaluate("--pred_dir", folders["hr"], "--weights", weights, "--out_dir", out)
    record = read(out)["record"]

    assert record["weights"]["fusion"] == "aa"
    assert record["weights"]["w.safetensors"] == provenance.weights_hash(weights)
    assert len(record["weights"]["w.safetensors"]) == 64
    assert record["inputs"]["inference ensemble"] == "x4"
    folder_hash = provenance.weights_hash(folders["root"] / "out")
    (folders["root"] / "out" / "x" / "a.png").write_bytes(b"changed")
    assert provenance.weights_hash(folders["root"] / "out") != folder_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure"),
        (["--pred_dir", "missing"], "missing: no such folder"),
        (["--pred_dir", "{hr}", "--metrics", "sharpness"], "'sharpness'"),
        (["--pred_dir", "{hr}", "--metrics", "mi"], "needs --ir_dir"),
        (["--pred_dir", "{hr}", "--metrics", "psnr"], "needs --gt_baseline"),
        (["--pred_dir", "{hr}", "--gt_baseline", "gt"], "bicubic4x, lr, or gt DIR"),
        (["--pred_dir", "{hr}", "--ir_dir", "{ir}"], "belong together"),
        (["--pred_dir", "{hr}", "--compare", "x"], "NAME=DIR"),
        (["--pred_dir", "{hr}", "--compare", "y={lr}", "y={lr}"], "given twice"),
        (["--pred_dir", "{hr}", "--report"], "--out_dir"),
        (["--pred_dir", "{hr}", "--baselines", "magic", "--out_dir", "{root}/e"], "magic"),
        (["--baselines", "max", "--out_dir", "{root}/e"], "needs --ir_dir"),
        (["--baselines", "bicubic", "--out_dir", "{root}/e"], "needs --lr_dir"),
        (["--pred_dir", "{hr}", "--out_dir", "{ir}/a.png/x"], "cannot be created"),
        (["--pred_dir", "{hr}", "--weights", "{root}/none.pth"], "none.pth"),
        (["--pred_dir", "{hr}", "--jobs", "0"], "--jobs 0"),
        (["--pred_dir", "{hr}", "--niqe_model", "{ir}/a.png"], "not a NIQE model"),
    ],
)
def test_errors_are_one_line(folders, capsys, arguments, message):
    places = {name: str(path) for name, path in folders.items()}
    assert evaluate(*(argument.format(**places) for argument in arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0 or error.splitlines()[-1].startswith("esr-lefuse eval: error:")


def test_list_metrics(capsys):
    assert evaluate("--list_metrics") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*metrics.METRICS, "lpips", "lpips_vgg"))


def test_own_niqe_model(folders, tmp_path, capsys):
    photographs = tmp_path / "photographs"
    for number in range(6):
        rng = np.random.default_rng(number)
        save(photographs / f"{number}.png", np.repeat(rng.integers(0, 256, (288, 288, 1), np.uint8), 3, -1))
    model = tmp_path / "model.npz"
    assert evaluate("--fit_niqe", photographs, "--niqe_model", model) == 0
    out = folders["root"] / "e"
    evaluate("--pred_dir", folders["hr"], "--metrics", "niqe", "--niqe_model", model, "--out_dir", out)
    own = means(out)["fused", "x", "niqe"], read(out)["rows"][1]["values"]["niqe"]
    evaluate("--pred_dir", folders["hr"], "--metrics", "niqe", "--out_dir", out)
    assert read(out)["rows"][1]["values"]["niqe"] != own[1]
    assert "NIQE model of 6 images" in capsys.readouterr().out


def test_stems_with_endings_and_folders_with_both_stages(folders):
    both = folders["root"] / "both"
    for stem in "abc":
        (both / "hr").mkdir(parents=True, exist_ok=True)
        (both / "lr").mkdir(exist_ok=True)
        (folders["hr"] / f"{stem}.png").rename(both / "hr" / f"{stem}_4x.png")
        (folders["lr"] / f"{stem}.png").rename(both / "lr" / f"{stem}_fused.png")
    found = inputs.gather([("both", both)], ir_dir=folders["ir"], vis_dir=folders["vi"], baseline="bicubic4x")
    assert found.problems == ()
    assert set(found.methods[0].fused) == set(found.methods[0].enlarged) == {"a", "b", "c"}
    assert inputs.method_name(both / "hr") == "both"
    with pytest.raises(PairError, match="no name matches"):
        inputs.gather([("both", both)], ir_dir=folders["ir"], vis_dir=folders["vi"], lr_dir=_strange(folders))


def _strange(folders):
    folder = folders["root"] / "strange"
    save(folder / "zebra.png", picture(1))
    return folder


def test_ties_and_direction_in_best():
    inputs_ = inputs.Inputs((), {}, {}, {}, None, (), ())
    with pytest.raises(ConfigError, match="none of the metrics"):
        run.select(inputs_, ["en"])


def test_best_follows_the_direction_and_marks_ties(folders):
    out = folders["root"] / "e"
    flat, noisy = folders["root"] / "flat", folders["root"] / "noisy"
    for stem in "abc":
        save(flat / f"{stem}.png", np.full((96, 128, 3), 80, np.uint8))
        save(noisy / f"{stem}.png", np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8))
    evaluate(
        "--lr_dir", flat, "--compare", f"noisy={noisy}", f"twin={noisy}", "--metrics", "sd", "--out_dir", out
    )
    results = load_results(out / "results.json")
    (column,) = results.columns["fused"]
    assert results.best("fused", column) == {"noisy", "twin"}
    assert tables.markdown(results).count("**") == 4


def test_gather_refuses_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PairError, match="no images"):
        inputs.gather([("empty", tmp_path / "empty")])


def test_latex_escapes_names(folders):
    out = folders["root"] / "e"
    evaluate("--lr_dir", folders["lr"], "--name", "50%_me & you", "--metrics", "en", "--out_dir", out)
    assert r"50\%\_me \& you" in (out / "tables.tex").read_text()
    evaluate("--lr_dir", folders["lr"], "--name", "a|b", "--metrics", "en", "--out_dir", out)
    assert r"a\|b" in (out / "tables.md").read_text()
