"""The HTML report: complete, self-contained, and working in a browser opened from disk."""

import json
import re

import numpy as np
import pytest
from browser import Browser, find_chromium
from eval_folders import make_pairs, make_results, picture, save
from PIL import Image

from esr_lefuse_jax.cli import main
from esr_lefuse_jax.errors import ConfigError
from esr_lefuse_jax.evaluation import figure, inputs, report
from esr_lefuse_jax.evaluation.results import load_results


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The output folder of an evaluation of three methods with a report."""
    root = tmp_path_factory.mktemp("report")
    stems = ("a", "b", "road/c")
    ir, vi = make_pairs(root / "pairs", stems)
    hr, lr = make_results(root / "out", stems)
    for number, stem in enumerate(stems):
        save(root / "other" / f"{stem}.png", picture(300 + number))
        save(root / "</script>" / f"{stem}.png", picture(400 + number))
    arguments = ["--pred_dir", hr, "--lr_dir", lr, "--ir_dir", ir, "--vis_dir", vi, "--report"]
    arguments += ["--compare", f"other={root / 'other'}", f"</script>={root / '</script>'}"]
    arguments += ["--gt_baseline", "bicubic4x", "--out_dir", root / "e"]
    code = main(["eval", "--quiet", *map(str, arguments)])
    assert code == 0
    return root / "e"


@pytest.fixture(scope="module")
def page(evaluated):
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine (Debian package `chromium`)")
    browser = Browser(executable)
    browser.open((evaluated / "report" / "index.html").as_uri())
    browser.wait("[...document.images].every((image) => image.complete)")
    yield browser
    browser.close()


def data_of(evaluated):
    html = (evaluated / "report" / "index.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1].replace("<\\/", "</")), html


def column(page, table, number):
    return page.js(
        f"[...document.querySelectorAll('#{table} tbody tr')].map((row) => row.children[{number}].innerText)"
    )


def header(page, table, number):
    x, y, width, height = page.box(f"#{table} thead th:nth-child({number + 1})")
    page.click(x + width / 2, y + height / 2)
    return page.js(f"document.querySelectorAll('#{table} thead th')[{number}].getAttribute('aria-sort')")


def test_folder_is_complete_and_names_nothing_outside(evaluated):
    data, html = data_of(evaluated)
    assert [image["stem"] for image in data["images"]] == ["a", "b", "road/c"]
    for image in data["images"]:
        for layer in image["layers"]:
            assert (evaluated / "report" / layer["file"]).is_file()
    labels = [layer["label"] for layer in data["images"][0]["layers"]]
    assert labels == ["infrared", "visible", "x, fused", "other", "</script>", "bicubic 4x", "x, enlarged"]
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", html)
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg", "", html)
    results = load_results(evaluated / "results.json")
    mean = data["stages"]["fused"]["means"]["x"]["qabf"]
    assert mean["value"] == results.mean("fused", "x", "qabf").value
    assert len(data["rows"]) == len(results.rows) == 12


def test_large_images_are_scaled_down_and_long_sets_thinned(evaluated, tmp_path):
    results = load_results(evaluated / "results.json")
    root = evaluated.parent
    found = inputs.gather([("x", root / "out" / "x")], lr_dir=root / "out" / "x_lr", baseline="bicubic4x")
    index = report.write(results, found, tmp_path / "r", max_images=2, max_side=200, progress=False)
    sizes = {
        Image.open(path).size for path in (index.parent / "images").iterdir() if "thumb" not in path.name
    }
    assert max(max(size) for size in sizes) == 200
    text = index.read_text()
    assert "shows 2 of 3 images" in text


def test_opens_without_errors_or_requests(page):
    assert page.errors == []
    assert not [url for url in page.requests if not url.startswith("file:")]
    assert page.js("document.querySelectorAll('#strip button').length") == 3
    assert page.js("document.querySelectorAll('.plot svg').length") == 10  # NIQE is not defined here
    assert page.js("[...document.images].filter((i) => i.src && !i.naturalWidth).length") == 0


def test_the_slider_moves_the_divider(page):
    x, y, width, height = page.box("#handle")
    vx, _, vwidth, _ = page.box("#viewer")
    page.mouse("mousePressed", x + width / 2, y + height / 2, button="left", clickCount=1)
    for share in (0.4, 0.3, 0.25):
        page.mouse("mouseMoved", vx + vwidth * share, y + height / 2, button="left", buttons=1)
    page.mouse("mouseReleased", vx + vwidth * 0.25, y + height / 2, button="left")
    assert page.js("document.getElementById('handle').getAttribute('aria-valuenow')") == "25"
    assert page.js("document.getElementById('over').style.clipPath") == "inset(0px 75% 0px 0px)"
    page.js("document.getElementById('handle').focus()")
    page.key("ArrowRight")
    assert page.js("document.getElementById('handle').getAttribute('aria-valuenow')") == "27"


def test_the_lens_magnifies_what_is_under_it(page):
    x, y, width, height = page.box("#viewer")
    page.mouse("mouseMoved", x + width * 0.75, y + height * 0.4)
    assert page.js("document.getElementById('lens').hidden") is False
    background = page.js("document.getElementById('lens').style.backgroundImage")
    right = page.js("document.getElementById('under').getAttribute('src')")
    assert right in background
    page.mouse("mouseMoved", x + width * 0.1, y + height * 0.4)
    left = page.js("document.getElementById('overimage').getAttribute('src')")
    assert left in page.js("document.getElementById('lens').style.backgroundImage")
    assert left != right
    before = page.js("document.querySelector('.crop div').style.backgroundPosition")
    page.click(x + width * 0.6, y + height * 0.7)  # pins the crops
    pinned = page.js("document.querySelector('.crop div').style.backgroundPosition")
    assert pinned != before
    page.mouse("mouseMoved", x + width * 0.2, y + height * 0.2)
    assert page.js("document.querySelector('.crop div').style.backgroundPosition") == pinned
    page.click(x + width * 0.5, y + height * 0.9)


def test_layers_and_images_change(page):
    x, y, width, height = page.box(".crop:nth-child(1)")
    page.click(x + width / 2, y + height / 2)
    assert page.js("document.getElementById('tagright').textContent") == "infrared"
    page.js("document.activeElement.blur()")
    page.key("ArrowRight")
    assert page.js("document.getElementById('stem').textContent") == "b"
    assert page.js("document.getElementById('tagright').textContent") == "infrared"
    page.key("ArrowLeft")
    assert page.js("document.getElementById('stem').textContent") == "a"


def test_columns_sort_both_ways(page, evaluated):
    results = load_results(evaluated / "results.json")
    expected = {m: results.mean("fused", m, "en").value for m in results.methods}
    assert header(page, "meantable", 1) == "descending"  # higher is better: best first
    assert column(page, "meantable", 0) == sorted(expected, key=expected.get, reverse=True)
    assert header(page, "meantable", 1) == "ascending"
    assert column(page, "meantable", 0) == sorted(expected, key=expected.get)
    header(page, "rowtable", 3)
    values = [float(text) for text in column(page, "rowtable", 3)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 9
    niqe = page.js(
        "[...document.querySelectorAll('#rowtable th')].findIndex((t) => t.innerText.includes('NIQE'))"
    )
    assert set(column(page, "rowtable", niqe)) == {"not defined"}


def test_stages_filter_and_plots(page):
    page.js("document.querySelectorAll('#meantabs button')[1].click()")
    assert column(page, "meantable", 0) == ["x"]
    page.js("document.querySelectorAll('#spreadtabs button')[1].click()")
    assert page.js("document.querySelectorAll('.plot').length") == 9
    page.js(
        "const f = document.getElementById('filter'); f.value = 'road'; f.dispatchEvent(new Event('input'))"
    )
    assert set(column(page, "rowtable", 0)) == {"road/c"}
    page.js("document.querySelector('.plot circle[data-stem=\"road/c\"]').dispatchEvent(new Event('click'))")
    assert page.js("document.getElementById('stem').textContent") == "road/c"


def test_screenshot_is_not_blank(page, tmp_path):
    page.screenshot(tmp_path / "page.png")
    image = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert image.shape[1] == 1500
    assert image.std() > 20


def gather(root):
    return inputs.gather(
        [("x", root / "out" / "x"), ("other", root / "other")],
        ir_dir=root / "pairs" / "ir", vis_dir=root / "pairs" / "vi", lr_dir=root / "out" / "x_lr",
        baseline="bicubic4x",
    )  # fmt: skip


def test_figure_files(evaluated, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `eval`)")
    found = gather(evaluated.parent)
    png, pdf = figure.write(found, tmp_path / "f", ["a", "road/c"], ["a:10,20,30"], dpi=100)
    assert pdf.read_bytes().startswith(b"%PDF")
    image = np.asarray(Image.open(png).convert("RGB")).astype(int)
    red = (np.abs(image - (255, 77, 77)).sum(axis=2) < 60).sum()
    assert red > 500  # the frames of the crop, once for each of six layers and once around each crop
    again = figure.write(found, tmp_path / "g", ["a", "road/c"], ["a:10,20,30"], dpi=100)
    assert again[1].read_bytes() == pdf.read_bytes()


def test_figure_shows_the_crop_that_is_asked_for(evaluated, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `eval`)")
    shown = []
    original = figure._show
    monkeypatch.setattr(
        figure, "_show", lambda ax, image, **k: (shown.append(image), original(ax, image, **k))
    )
    root = evaluated.parent
    figure.write(gather(root), tmp_path / "f", ["a"], ["10,20,30"], dpi=50)
    crops = [image for image in shown if image.shape[0] in (30, 120)]
    fused = np.asarray(Image.open(root / "out" / "x_lr" / "a.png"))[20:50, 10:40]
    large = np.asarray(Image.open(root / "out" / "x" / "a.png"))[80:200, 40:160]
    assert any(np.array_equal(crop, fused) for crop in crops)
    assert any(np.array_equal(crop, large) for crop in crops)


@pytest.mark.parametrize(
    ("stems", "crops", "message"),
    [
        (["zebra"], [], "zebra"),
        (["a"], ["1,2"], "X,Y,SIZE"),
        (["a"], ["100,0,60"], "leaves the image of 128x96"),
        (["a"], ["0,0,1"], "at least 4"),
    ],
)
def test_figure_errors(evaluated, tmp_path, stems, crops, message):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `eval`)")
    with pytest.raises(ConfigError, match=message):
        figure.write(gather(evaluated.parent), tmp_path / "f", stems, crops)


def test_chosen_crops_find_the_target_and_do_not_overlap():
    infrared = np.full((96, 128), 40, np.uint8)
    infrared[50:60, 90:96] = 250
    visible = np.full((96, 128, 3), 60, np.uint8)
    visible[5:25, 5:25] = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    layers = [figure.Layer("infrared", "", infrared), figure.Layer("visible", "", visible)]
    target, detail = figure._choose(layers)
    assert target.x <= 90
    assert target.x + target.size >= 94
    assert target.y <= 50 < target.y + target.size
    assert detail.x < 25
    assert detail.y < 25
