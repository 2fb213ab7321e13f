import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esr_lefuse_jax import frame_teacher, weights
from esr_lefuse_jax.cli import main
from esr_lefuse_jax.data import prepared
from esr_lefuse_jax.data.pipeline import TrainingData
from esr_lefuse_jax.errors import ConfigError, ImageError, OutputError, PairError
from esr_lefuse_jax.frame_teacher import FrameTeacher, lr_consistency, windows
from esr_lefuse_jax.images import read_visible, write_image
from esr_lefuse_jax.models.rrdb import ResidualInResidual, RRDBNet
from esr_lefuse_jax.pseudo_hr import Options, make_pseudo_hr, plan
from esr_lefuse_jax.training.teacher import teach

RNG = np.random.default_rng(3)
IMAGES = [RNG.random((24, 20, 3)).astype(np.float32) for _ in range(3)]


def repeat_pixels(lr):
    return lr.repeat(4, axis=0).repeat(4, axis=1)


class Source:
    """Images in memory that count how often they are asked for; some of them fail."""

    def __init__(self, names=("a", "b/c", "d"), bad=()):
        self.names, self.bad, self.asked = list(names), bad, []

    def image(self, index):
        self.asked.append(index)
        if self.names[index] in self.bad:
            raise ImageError(f"{self.names[index]}.png: truncated")
        return IMAGES[index]


def rows_of(folder):
    table = prepared.Table(folder)
    return table.keys, [
        {part: np.round(read_visible(table.row(i)[part]) * 255) for part in ("lr", "hr")}
        for i in range(len(table.keys))
    ]


@pytest.mark.parametrize(
    ("rows", "size", "halo"), [(5, 60, 15), (60, 60, 15), (61, 60, 15), (500, 61, 15), (40, 9, 2)]
)
def test_windows_cover_every_row_once_with_its_halo(rows, size, halo):
    seen = []
    for window, valid in windows(rows, size, halo):
        assert window.stop - window.start == min(size, rows)
        first, last = window.start + valid.start, window.start + valid.stop
        assert window.start == 0 or valid.start >= halo
        assert window.stop == rows or last <= window.stop - halo
        seen += range(first, last)
    assert seen == list(range(rows))


def random_variables(network, size):
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: size * rng.standard_normal(s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def small_teacher():
    network = RRDBNet(num_blocks=2, features=8, growth=4)
    return network, random_variables(network, 0.12)  # large enough for every row of the halo to count


def test_strips_give_exactly_the_untiled_teacher(small_teacher):
    network, variables = small_teacher
    lr = RNG.random((149, 21, 3)).astype(np.float32)
    tiled = FrameTeacher(variables, max_memory=1)  # strips of 60 rows, the lowest
    raw = tiled(lr, consistent=False)
    whole = np.clip(network.apply(variables, lr[None])[0], 0, 1)
    assert raw.shape == (596, 84, 3)
    assert whole.std() > 0.01
    np.testing.assert_allclose(raw, whole, atol=1e-5)
    held = tiled(lr)
    np.testing.assert_allclose(held, teach(lambda x: network.apply(variables, x), lr[None])[0], atol=1e-5)
    assert lr_consistency(held, lr) > lr_consistency(raw, lr)


def test_strips_grow_with_the_memory():
    variables = {"params": {"conv_first": {"kernel": np.zeros((3, 3, 3, 64), np.float32)}}}
    variables["params"]["body_0"] = {"rdb1": {"conv1": {"kernel": np.zeros((3, 3, 64, 32), np.float32)}}}
    rows = [FrameTeacher(variables, max_memory=size << 20).strip_rows(1024, 1280) for size in (1, 1850, 9999)]
    assert rows == [60, 96, 160]  # the least that the margins allow, what fits, the most that pays


def reach_of(run, rows, scale=1):
    """How many input rows away from an output row still act on it; weights and inputs are positive."""
    middle = rows // 2

    def one_row(x):
        return run(x)[0, scale * middle].sum() + run(x)[0, scale * (middle + 1) - 1].sum()

    slope = np.abs(jax.grad(one_row)(jnp.ones((1, rows, 3, 4)))).sum((0, 2, 3))
    return np.max(np.abs(np.flatnonzero(slope) - middle))


def test_halos_are_as_far_as_the_parts_of_the_network_see():
    def positive(module):
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 8, 8, 4)))
        variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.05), shapes)
        return jax.jit(lambda x: module.apply(variables, x))

    block = ResidualInResidual(growth=2)
    assert reach_of(positive(block), 61) == frame_teacher._BLOCK_HALO
    tail = frame_teacher._Tail(features=4, dtype=jnp.float32)
    assert reach_of(positive(tail), 21, scale=4) == frame_teacher._TAIL_HALO


def test_progress_reaches_the_end(small_teacher):
    shares = []
    FrameTeacher(small_teacher[1])(IMAGES[0], shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_plan_spreads_the_count_over_the_images():
    tasks = plan(["a", "b", "c"], Options(count=20))
    assert [sum(task.index == i for task in tasks) for i in range(3)] == [7, 7, 6]
    assert len({task.key for task in tasks}) == 20
    assert all(task.turn == 0 for task in tasks if task.variant == 0)
    turns = [task.turn for task in plan(["a"], Options(count=8))]
    assert sorted(turns) == list(range(8)), "the eight turns before any comes again"


def test_whole_frames_become_a_set(tmp_path):
    source, reports = Source(), []
    calls = []

    def teacher(lr):
        calls.append(1)
        return repeat_pixels(lr)

    summary = make_pseudo_hr(source, teacher, tmp_path, Options(count=5), "id", reports.append)
    assert (summary.made, summary.found, summary.failed) == (5, 0, [])
    assert sum(reports) == 5
    assert len(calls) == 3, "turns share one run of the teacher"
    keys, rows = rows_of(summary.folder)
    assert keys == ["a~0", "a~1", "b/c~0", "b/c~1", "d~0"]
    np.testing.assert_array_equal(rows[0]["lr"], np.round(IMAGES[0] * 255))
    for row in rows:
        np.testing.assert_array_equal(row["hr"], repeat_pixels(row["lr"]))
    assert not (tmp_path / "lr_hr_work").exists()
    with pytest.raises(OutputError, match="exists already"):
        make_pseudo_hr(source, teacher, tmp_path, Options(count=5), "id")
    data = TrainingData(stage="sr", train=f"pseudo_hr:{tmp_path}", crop=8, batch_size=2)
    assert next(data.batches(0))["hr"].shape == (2, 32, 32, 3)


def test_crops(tmp_path):
    summary = make_pseudo_hr(Source(), repeat_pixels, tmp_path, Options(count=6, crop=12), "id")
    _, rows = rows_of(summary.folder)
    assert all(row["lr"].shape == (12, 12, 3) for row in rows)
    for row in rows:
        np.testing.assert_array_equal(row["hr"], repeat_pixels(row["lr"]))
    assert len({row["lr"].tobytes() for row in rows}) == 6
    with pytest.raises(PairError, match="smaller than the crop"):
        make_pseudo_hr(Source(), repeat_pixels, tmp_path / "big", Options(count=3, crop=21), "id")


def test_an_interrupted_run_goes_on_and_gives_the_same_set(tmp_path):
    options = Options(count=6, crop=12)
    clean = make_pseudo_hr(Source(), repeat_pixels, tmp_path / "clean", options, "id")

    class Interrupted(Exception):
        pass

    calls = []

    def failing(lr):
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted
        return repeat_pixels(lr)

    with pytest.raises(Interrupted):
        make_pseudo_hr(Source(), failing, tmp_path / "cut", options, "id")
    with pytest.raises(ConfigError, match="unfinished work with other"):
        make_pseudo_hr(Source(), repeat_pixels, tmp_path / "cut", options, "another identity")
    with pytest.raises(ConfigError, match="unfinished work with other"):
        make_pseudo_hr(Source(), repeat_pixels, tmp_path / "cut", Options(count=6, crop=10), "id")
    source = Source()
    resumed = make_pseudo_hr(source, repeat_pixels, tmp_path / "cut", options, "id")
    assert (resumed.made, resumed.found) == (3, 3)
    assert 0 not in source.asked, "the first image was finished"
    one, other = rows_of(clean.folder), rows_of(resumed.folder)
    assert one[0] == other[0]
    assert all(np.array_equal(a[part], b[part]) for a, b in zip(one[1], other[1], strict=True) for part in a)


def test_bad_images_are_left_out_by_name(tmp_path):
    summary = make_pseudo_hr(Source(bad={"b/c"}), repeat_pixels, tmp_path, Options(count=3), "id")
    assert [name for name, _ in summary.failed] == ["b/c"]
    assert rows_of(summary.folder)[0] == ["a~0", "d~0"]


@pytest.mark.slow
def test_command(tmp_path, capsys):
    (tmp_path / "fused").mkdir()
    for index in range(2):
        write_image(tmp_path / "fused" / f"{index}.png", RNG.random((16, 12, 3)))
    (tmp_path / "fused" / "notes.txt").write_text("")
    variables = random_variables(RRDBNet(), 0.02)
    weights.save_safetensors(tmp_path / "teacher.safetensors", "rrdb", variables, {})
    arguments = ["make-pseudo-hr", "--fused_dir", str(tmp_path / "fused"), "--out_dir", str(tmp_path / "out")]
    arguments += ["--teacher_ckpt", str(tmp_path / "teacher.safetensors"), "--count", "3"]
    assert main(arguments) == 1, "a file was left out"
    assert "notes.txt: not an image" in capsys.readouterr().err
    keys, rows = rows_of(prepared.find(tmp_path / "out"))
    assert keys == ["0.png~0", "0.png~1", "1.png~0"]
    assert rows[0]["hr"].shape == (64, 48, 3)


def test_refusals(tmp_path, capsys):
    base = ["make-pseudo-hr", "--out_dir", str(tmp_path)]
    assert main(base) == 2
    assert main([*base, "--fused_dir", str(tmp_path)]) == 2
    assert main([*base, "--fused_dir", str(tmp_path), "--count", "0"]) == 2
    said = capsys.readouterr().err
    assert "holds no images" in said
    assert "--count 0" in said
