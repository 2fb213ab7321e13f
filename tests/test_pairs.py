import numpy as np
import pytest

from esr_lefuse_jax.errors import PairError
from esr_lefuse_jax.images import write_image
from esr_lefuse_jax.layouts import find_layouts
from esr_lefuse_jax.pairs import find_pairs, list_images


def put(path, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros(size))


def stems(pairs):
    return [pair.stem for pair in pairs]


def test_pairs_by_stem_whatever_the_ending(tmp_path):
    for name in ("b", "a", "sub/c"):
        put(tmp_path / "ir" / f"{name}.png")
        put(tmp_path / "vi" / f"{name}.jpg")
    pairs, problems = find_pairs(tmp_path / "ir", tmp_path / "vi")
    assert stems(pairs) == ["a", "b", "sub/c"]
    assert pairs[0].visible == tmp_path / "vi/a.jpg"
    assert pairs[0].infrared == tmp_path / "ir/a.png"
    assert problems == []


def test_all_problems_are_listed_at_once_and_the_rest_pairs(tmp_path):
    ir, vi = tmp_path / "ir", tmp_path / "vi"
    for name in ("good", "size", "twice", "fake"):
        put(ir / f"{name}.png")
        put(vi / f"{name}.png", (6, 9) if name == "size" else (6, 8))
    put(ir / "only_ir.png")
    put(vi / "only_vi.png")
    put(vi / "twice.jpg")
    (vi / "fake.png").write_text("text")
    (vi / "notes.txt").write_text("text")
    (vi / ".hidden").write_text("")
    (vi / "Thumbs.db").write_text("")
    (vi / "gone.png").symlink_to(vi / "nowhere.png")
    pairs, problems = find_pairs(ir, vi)
    assert stems(pairs) == ["good"]
    for words in (
        ("size: sizes differ", "visible 9x6", "infrared 8x6"),
        ("only_ir.png", "no visible image"),
        ("only_vi.png", "no infrared image"),
        ("twice", "2 visible images"),
        ("fake.png", "no image that can be read"),
        ("notes.txt", "not an image"),
        ("gone.png", "broken link"),
    ):
        assert sum(all(word in line for word in words) for line in problems) == 1, words
    assert len(problems) == 7
    assert all("\n" not in line for line in problems)
    assert find_pairs(ir, vi) == (pairs, problems), "the order must not change"


def test_size_check_can_be_left_out(tmp_path):
    put(tmp_path / "ir/a.png")
    put(tmp_path / "vi/a.png", (7, 8))
    assert stems(find_pairs(tmp_path / "ir", tmp_path / "vi", check_headers=False)[0]) == ["a"]


def test_turned_by_exif_counts_after_turning(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "ir/a.png", (8, 6))
    (tmp_path / "vi").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "vi/a.jpg", exif=exif)
    pairs, problems = find_pairs(tmp_path / "ir", tmp_path / "vi")
    assert stems(pairs) == ["a"], problems


def test_link_loops_end_and_each_file_counts_once(tmp_path):
    put(tmp_path / "ir/deep/a.png")
    (tmp_path / "ir/again").symlink_to(tmp_path / "ir")
    (tmp_path / "ir/deep/up").symlink_to(tmp_path / "ir/deep")
    (tmp_path / "ir/0_first").symlink_to(tmp_path / "ir/deep")
    (tmp_path / "ir/self.png").symlink_to("self.png")
    (tmp_path / "ir/twin.png").symlink_to(tmp_path / "ir/deep/a.png")
    files, problems = list_images(tmp_path / "ir")
    assert files == [tmp_path / "ir/deep/a.png"]
    assert len(problems) == 2
    assert any("self.png" in line for line in problems)
    assert any("twin.png" in line and "listed already" in line for line in problems)


def test_links_to_elsewhere_are_followed(tmp_path):
    put(tmp_path / "store/a.png")
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir/a.png").symlink_to(tmp_path / "store/a.png")
    (tmp_path / "vi").symlink_to(tmp_path / "store")
    assert stems(find_pairs(tmp_path / "ir", tmp_path / "vi")[0]) == ["a"]


@pytest.mark.parametrize(
    ("infrared", "visible"), [("x_IR", "x_VIS"), ("IR_x", "VIS_x"), ("x-thermal", "x-rgb"), ("x.t", "x.v")]
)
@pytest.mark.parametrize("same_folder", [False, True])
def test_markers_in_names(tmp_path, infrared, visible, same_folder):
    ir = tmp_path / "d1"
    vi = ir if same_folder else tmp_path / "d2"
    put(ir / f"{infrared}.png")
    put(vi / f"{visible}.png")
    pairs, problems = find_pairs(ir, vi)
    assert stems(pairs) == ["x"]
    assert problems == []


def test_explicit_suffixes(tmp_path):
    put(tmp_path / "ir/a_lw.png")
    put(tmp_path / "vi/a_cam0.png")
    pairs, _ = find_pairs(tmp_path / "ir", tmp_path / "vi", ir_suffix="_lw", vis_suffix="_cam0")
    assert stems(pairs) == ["a"]


def test_missing_folders(tmp_path):
    put(tmp_path / "ir/a.png")
    with pytest.raises(PairError, match="no such folder"):
        find_pairs(tmp_path / "ir", tmp_path / "vi")
    with pytest.raises(PairError, match="no such folder"):
        find_pairs(tmp_path / "none", tmp_path / "ir")
    with pytest.raises(PairError, match="found no pair of folders"):
        find_layouts(tmp_path)


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        (["ir", "vi"], [("", "ir", "vi")]),
        (["M3FD_Fusion/Ir", "M3FD_Fusion/Vis"], [("", "M3FD_Fusion/Ir", "M3FD_Fusion/Vis")]),
        (
            ["LLVIP/infrared/train", "LLVIP/infrared/test", "LLVIP/visible/train", "LLVIP/visible/test"],
            [
                ("test", "LLVIP/infrared/test", "LLVIP/visible/test"),
                ("train", "LLVIP/infrared/train", "LLVIP/visible/train"),
            ],
        ),
        (
            ["train/ir", "train/vi", "test/ir", "test/vi", "train/labels"],
            [("test", "test/ir", "test/vi"), ("train", "train/ir", "train/vi")],
        ),
        (["cropinfrared", "crop_LR_visible", "crop_HR_visible"], [("", "cropinfrared", "crop_LR_visible")]),
    ],
)
def test_layouts_as_downloaded(tmp_path, folders, wanted):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    found = find_layouts(tmp_path)
    assert [
        (item.split, str(item.ir_dir.relative_to(tmp_path)), str(item.vis_dir.relative_to(tmp_path)))
        for item in found
    ] == wanted


def test_real_sets_pair_completely(real_data):
    counts = {"m3fd": 7, "msrs": 91, "roadscene": 181, "m3svd": 160, "llvip": 44}
    for name, count in counts.items():
        found = [find_pairs(item.ir_dir, item.vis_dir) for item in find_layouts(real_data / name)]
        assert sum(len(pairs) for pairs, _ in found) == count
        assert not any(problems for _, problems in found)
