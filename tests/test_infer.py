"""`launch/infer.py` on folders as people have them: faults in single files, interruption, resumption."""

import errno
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import networks
import numpy as np
import pytest
from PIL import Image

from esr_lefuse_jax import cli
from esr_lefuse_jax.weights import save_safetensors

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for network in ("fusion", "sr"):
        save_safetensors(folder / f"{network}.safetensors", network, networks.variables(network))
    return [
        "--fusion_ckpt", str(folder / "fusion.safetensors"), "--sr_ckpt", str(folder / "sr.safetensors"),
    ]  # fmt: skip


def _make_pair(folder, stem, height=24, width=40, seed=0):
    rng = np.random.default_rng(seed)
    for kind, shape in (("ir", (height, width)), ("vi", (height, width, 3))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / kind / f"{stem}.png")


def _flags(folder, out, checkpoints, *more):
    return [
        "infer", "--ir_dir", str(folder / "ir"), "--vis_dir", str(folder / "vi"), "--out_dir", str(out),
        *checkpoints, *more,
    ]  # fmt: skip


def _digests(folder):
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_folder_with_every_kind_of_fault(tmp_path, checkpoints, capsys):
    """Bad pairs are named, the others finish, the exit code says that something is missing."""
    _make_pair(tmp_path, "good", 23, 39)
    _make_pair(tmp_path, "cut")
    _make_pair(tmp_path, "text")
    _make_pair(tmp_path, "empty")
    _make_pair(tmp_path, "sizes", 24, 40)
    _make_pair(tmp_path, "alone")
    whole = (tmp_path / "vi" / "cut.png").read_bytes()
    (tmp_path / "vi" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "vi" / "text.png").write_text("no image")
    (tmp_path / "vi" / "empty.png").write_bytes(b"")
    Image.new("L", (41, 24)).save(tmp_path / "ir" / "sizes.png")
    (tmp_path / "ir" / "alone.png").unlink()
    (tmp_path / "vi" / "notes.txt").write_text("not an image")

    code = cli.main(_flags(tmp_path, tmp_path / "out", checkpoints, "--save_lr"))
    printed = capsys.readouterr()
    assert code == 1
    assert list(_digests(tmp_path / "out")) == ["good.png"]
    with Image.open(tmp_path / "out" / "good.png") as image:
        assert image.size == (4 * 39, 4 * 23)
    with Image.open(tmp_path / "out_lr" / "good.png") as image:
        assert image.size == (39, 23)
    for name in ("cut", "text", "empty", "sizes", "alone", "notes.txt"):
        assert name in printed.err, name
    assert "1 of 2 pairs written" in printed.out  # the cut one has a good header
    assert "Traceback" not in printed.err


def test_one_pair_gray_and_fusion_only(tmp_path, checkpoints, capsys):
    _make_pair(tmp_path, "a", 16, 24)
    files = ["--ir", str(tmp_path / "ir" / "a.png"), "--vis", str(tmp_path / "vi" / "a.png")]
    code = cli.main(
        ["infer", *files, "--out_dir", str(tmp_path / "out"), *checkpoints, "--gray", "--fusion_only"]
    )
    assert code == 0, capsys.readouterr().err
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (24, 16)
        assert image.mode == "L"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ir_dir", "x"], "either --ir_dir and --vis_dir"),
        (["--ir_dir", "x", "--vis_dir", "y", "--ir", "z"], "either --ir_dir"),
        (["--ir_dir", "nowhere", "--vis_dir", "nowhere"], "nowhere: no such folder"),
        (["--ir", "no.png", "--vis", "no.png"], "no.png"),
        (["--ir", "a", "--vis", "b", "--max_memory", "lots"], "--max_memory 'lots'"),
        (["--ir", "a", "--vis", "b", "--batch_size", "0"], "--batch_size 0"),
        (["--ir", "a", "--vis", "b", "--ir_range", "warm"], "infrared range"),
    ],
)
def test_bad_flags_are_answered_at_once(flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    code = cli.main(["infer", *flags, "--out_dir", "out"])
    printed = capsys.readouterr().err
    assert code == 2
    assert words in printed
    assert printed.count("\n") == 1
    assert time.monotonic() - started < 5
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
    _make_pair(tmp_path, "a")
    code = cli.main(
        _flags(tmp_path, tmp_path / "out", ["--fusion_ckpt", "gone.pth", "--sr_ckpt", "gone.pth"])
    )
    assert code == 2
    assert "gone.pth" in capsys.readouterr().err


def test_a_full_disk_stops_the_run_and_leaves_no_part(tmp_path, checkpoints, capsys, monkeypatch):
    _make_pair(tmp_path, "a")
    replace = os.replace

    def full(source, target):
        if str(target).endswith(".png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    code = cli.main(_flags(tmp_path, tmp_path / "out", checkpoints))
    assert code == 2
    assert "disk is full" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".esr_lefuse.json"]


def test_an_output_folder_that_is_a_file(tmp_path, checkpoints, capsys):
    _make_pair(tmp_path, "a")
    (tmp_path / "out").write_text("")
    assert cli.main(_flags(tmp_path, tmp_path / "out", checkpoints)) == 2
    assert "out" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_nothing_happened(tmp_path, checkpoints, capsys):
    for seed in range(5):
        _make_pair(tmp_path, f"{seed}", seed=seed)
    assert cli.main(_flags(tmp_path, tmp_path / "clean", checkpoints)) == 0

    flags = _flags(tmp_path, tmp_path / "out", checkpoints)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch" / "infer.py"), *flags[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 110
    while not (tmp_path / "out" / "0.png").exists():
        assert process.poll() is None or (tmp_path / "out" / "0.png").exists()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in (tmp_path / "out").glob("*.png"):
        with Image.open(path) as image:
            image.load()

    kept = (tmp_path / "out" / "0.png").stat().st_mtime_ns
    assert cli.main([*flags, "--resume"]) == 0
    assert "were there already" in capsys.readouterr().out
    assert _digests(tmp_path / "out") == _digests(tmp_path / "clean")
    assert (tmp_path / "out" / "0.png").stat().st_mtime_ns == kept


def test_resuming_with_other_settings_is_refused(tmp_path, checkpoints, capsys):
    _make_pair(tmp_path, "a")
    assert cli.main(_flags(tmp_path, tmp_path / "out", checkpoints)) == 0
    assert cli.main(_flags(tmp_path, tmp_path / "out", checkpoints, "--resume", "--dtype", "bfloat16")) == 2
    assert "dtype" in capsys.readouterr().err


def test_processes_split_a_folder(tmp_path, checkpoints):
    for seed in range(3):
        _make_pair(tmp_path, f"{seed}", seed=seed)
    for process in (0, 1):
        flags = _flags(
            tmp_path,
            tmp_path / f"out{process}",
            checkpoints,
            "--num_processes",
            "2",
            "--process_id",
            str(process),
        )
        assert cli.main(flags) == 0
    assert list(_digests(tmp_path / "out0")) == ["0.png", "2.png"]
    assert list(_digests(tmp_path / "out1")) == ["1.png"]


def test_several_devices_share_a_folder(tmp_path, checkpoints):
    for seed in range(4):
        _make_pair(tmp_path, f"{seed}", seed=seed)
    assert cli.main(_flags(tmp_path, tmp_path / "one", checkpoints)) == 0
    assert cli.main(_flags(tmp_path, tmp_path / "two", checkpoints, "--num_devices", "2")) == 0
    assert _digests(tmp_path / "two") == _digests(tmp_path / "one")


def test_real_night_pairs(real_data, tmp_path, checkpoints):
    """An odd-sized crop of a real pair, in the sizes that the command promises."""
    for kind in ("ir", "vi"):
        (tmp_path / kind).mkdir()
        with Image.open(real_data / "llvip" / "test" / kind / "190001.jpg") as image:
            image.crop((600, 400, 637, 421)).save(tmp_path / kind / "crop.png")
    assert cli.main(_flags(tmp_path, tmp_path / "out", checkpoints)) == 0
    with Image.open(tmp_path / "out" / "crop.png") as image:
        assert image.size == (148, 84)
