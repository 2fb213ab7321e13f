import itertools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from esr_lefuse_jax.data import sources
from esr_lefuse_jax.data.pipeline import TrainingData, make_train_iterator
from esr_lefuse_jax.errors import ConfigError, ImageError, PairError
from esr_lefuse_jax.images import write_image
from esr_lefuse_jax.synthetic import render_night_pair


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Nine rendered pairs in ir/ and vi/, and a folder of their well-lit pictures."""
    root = tmp_path_factory.mktemp("pairs")
    for folder in ("ir", "vi", "photos"):
        (root / folder).mkdir()
    for seed in range(9):
        pair = render_night_pair(40, 56, seed)
        write_image(root / "ir" / f"{seed}.png", pair.infrared)
        write_image(root / "vi" / f"{seed}.png", pair.visible)
        write_image(root / "photos" / f"{seed}.png", pair.clean)
    return root


def fusion(pairs, **options):
    options = {"crop": 24, "batch_size": 4, "seed": 5, **options}
    return TrainingData(stage="fusion", train=str(pairs), **options)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_fusion_batches(pairs):
    with fusion(pairs) as data:
        assert data.examples + len(data.validation) == 9
        assert not data.needs_teacher
        batch = next(data.batches(0))
    channels = {"visible": 3, "infrared": 1, "enhanced": 1, "target": 1}
    assert batch.keys() == channels.keys()
    for name, count in channels.items():
        assert batch[name].shape == (4, 24, 24, count)
        assert batch[name].dtype == np.float32
        assert batch[name].min() >= 0
        assert batch[name].max() <= 1
    assert batch["enhanced"].mean() > 1.5 * batch["visible"].mean()


def test_resume_from_a_step_gives_the_same_batches(pairs):
    unbroken = take(fusion(pairs, darken=0.5).batches(0), 6)
    resumed = take(fusion(pairs, darken=0.5).batches(4), 2)
    assert all(same(a, b) for a, b in zip(unbroken[4:], resumed, strict=True))
    assert not same(unbroken[0], unbroken[1])
    other_seed = next(fusion(pairs, seed=6).batches(0))
    assert not same(unbroken[0], other_seed)


def test_any_number_of_processes_shares_the_same_global_batch(pairs):
    whole = take(fusion(pairs).batches(1), 2)
    parts = [take(fusion(pairs, process_index=i, process_count=2).batches(1), 2) for i in range(2)]
    for step, batch in enumerate(whole):
        for name, array in batch.items():
            joined = np.stack([parts[i % 2][step][name][i // 2] for i in range(4)])
            np.testing.assert_array_equal(joined, array)
    with pytest.raises(ConfigError, match="not a multiple"):
        fusion(pairs, process_count=3)


def test_every_example_comes_once_an_epoch(pairs):
    data = fusion(pairs, validation_share=0.0, batch_size=9, crop=40, augment=False)
    batches = take(data.batches(0), 2)
    # The infrared maximum tells the scenes apart whatever the crop.
    seen = [sorted(np.round(b["infrared"].mean((1, 2, 3)), 2)) for b in batches]
    assert len({tuple(np.round(x.ravel()[:50], 4)) for x in batches[0]["visible"]}) == 9
    assert len(seen[0]) == 9


def test_whole_validation_examples_are_stable(pairs):
    data = fusion(pairs, validation=str(pairs), max_validation=3, darken=0.5)
    assert len(data.validation) == 3
    first = data.validation[0]
    assert first["visible"].shape == (40, 56, 3)
    again = fusion(pairs, validation=str(pairs), max_validation=3, darken=0.5).validation[0]
    assert same(first, again)
    assert same(first, data.validation[0])


def test_split_is_stable_when_files_are_added():
    names = [f"{i:05d}" for i in range(400)]
    train, validation = sources.split_by_key(names, 0.2)
    assert sorted(train + validation) == list(range(400))
    assert 50 < len(validation) < 110
    held = {names[i] for i in validation}
    more = [*names, *(f"new{i}" for i in range(200))]
    _, larger = sources.split_by_key(more, 0.2)
    assert held <= {more[i] for i in larger}
    assert {more[i] for i in larger} - held <= set(more[400:])
    assert len(sources.split_by_key(["a", "b"], 0.01)[1]) == 1
    assert sources.split_by_key(["a"], 0.5)[0] == [0]
    assert sources.split_by_key(names, 0.0)[1] == []


def test_super_resolution_kinds_and_mixtures(pairs):
    def batch(train, **options):
        options = {"stage": "sr", "crop": 8, "scale": 4, "batch_size": 8, **options}
        data = TrainingData(train=train, **options)
        return data, next(data.batches(0))

    photos = pairs / "photos"
    data, photo = batch(f"photo:{photos}")
    assert photo["lr"].shape == (8, 8, 8, 3)
    assert photo["hr"].shape == (8, 32, 32, 3)
    box = photo["hr"].reshape(8, 8, 4, 8, 4, 3).mean((2, 4))
    assert np.abs(box - photo["lr"]).mean() < 0.02, "the input must be the reduced reference"
    assert not data.needs_teacher

    _, degraded = batch(f"photo:{photos}", photo_degradation=1.0)
    box = degraded["hr"].reshape(8, 8, 4, 8, 4, 3).mean((2, 4))
    assert np.abs(box - degraded["lr"]).mean() > 0.005

    data, teacher = batch(f"teacher:{photos}")
    assert teacher.keys() == {"lr"}
    assert data.needs_teacher
    assert data.validation[0].keys() == {"lr"}

    data, mixed = batch(f"teacher:{photos}@3,self:{photos}@1", batch_size=64)
    assert mixed.keys() == {"lr", "hr", "from_teacher"}
    assert mixed["from_teacher"].shape == (64,)
    assert mixed["from_teacher"].sum() == 48, "three of four examples by weight"
    by_teacher = mixed["from_teacher"] > 0
    assert (mixed["hr"][by_teacher] == 0).all()
    assert mixed["hr"][~by_teacher].mean() > 0.1


def test_small_pictures_are_mirrored(pairs):
    batch = next(fusion(pairs, crop=64).batches(0))
    assert batch["visible"].shape == (4, 64, 64, 3)


def test_sources_as_written():
    parsed = sources.parse_sources("photo:/a@0.5, self:/b@c ,teacher:/d", "sr")
    assert [(s.kind, str(s.path), s.weight) for s in parsed] == [
        ("photo", "/a", 0.5),
        ("self", "/b@c", 1.0),
        ("teacher", "/d", 1.0),
    ]
    assert sources.parse_sources("/x@2", "fusion")[0].weight == 2
    for text in ("", " , ", "/nokind", "photo:", "photo:/a@0", "photo:/a@-1"):
        with pytest.raises(ConfigError):
            sources.parse_sources(text, "sr")


def test_folders_that_hold_nothing(tmp_path, pairs):
    for stage, train, error in (
        ("fusion", tmp_path / "none", PairError),
        ("fusion", tmp_path, PairError),
        ("sr", f"photo:{tmp_path}", PairError),
        ("sr", f"pseudo_hr:{pairs}", ConfigError),
    ):
        with pytest.raises(error):
            TrainingData(stage=stage, train=str(train), crop=8, batch_size=1)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_file_is_named_in_mid_epoch(tmp_path, pairs, workers):
    for folder in ("ir", "vi"):
        (tmp_path / folder).mkdir()
        for seed in range(4):
            data = (pairs / folder / f"{seed}.png").read_bytes()
            (tmp_path / folder / f"{seed}.png").write_bytes(
                data[:-30] if (folder, seed) == ("vi", 2) else data
            )
    data = fusion(tmp_path, validation_share=0.0, batch_size=1, workers=workers)
    with pytest.raises(ImageError, match=r"vi/2\.png: .*truncated") as error:
        take(data.batches(0), 5)
    assert "\n" not in str(error.value)


def test_clean_folder_is_the_truth(tmp_path, pairs):
    for folder in ("ir", "vi"):
        (tmp_path / folder).symlink_to(pairs / folder)
    (tmp_path / "clean").symlink_to(pairs / "photos")
    data = fusion(tmp_path, validation_share=0.0, augment=False)
    assert next(data.batches(0))["enhanced"].mean() > 0.45


def test_training_split_of_a_layout_is_used(tmp_path, pairs):
    for split, seeds in (("train", (0, 1, 2)), ("test", (3, 4))):
        for kind, folder in (("infrared", "ir"), ("visible", "vi")):
            (tmp_path / kind / split).mkdir(parents=True)
            for seed in seeds:
                (tmp_path / kind / split / f"{seed}.png").symlink_to(pairs / folder / f"{seed}.png")
    assert fusion(tmp_path, validation_share=0.0).examples == 3
    held_out = fusion(tmp_path, validation=str(tmp_path))
    assert held_out.examples == 3
    assert len(held_out.validation) == 2


def test_fingerprint_follows_the_files(pairs, tmp_path):
    assert fusion(pairs).fingerprint == fusion(pairs).fingerprint
    for folder in ("ir", "vi"):
        (tmp_path / folder).mkdir()
        for seed in range(8):
            (tmp_path / folder / f"{seed}.png").symlink_to(pairs / folder / f"{seed}.png")
    assert fusion(tmp_path).fingerprint != fusion(pairs).fingerprint


def test_make_train_iterator(pairs):
    options = {"stage": "fusion", "train": str(pairs), "crop": 16, "batch_size": 2}
    assert same(next(make_train_iterator(3, **options)), take(make_train_iterator(0, **options), 4)[3])


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_their_death_is_told(pairs):
    code = textwrap.dedent(
        f"""
        import itertools, os, signal, sys, time
        import numpy as np
        from esr_lefuse_jax.data.pipeline import TrainingData
        from esr_lefuse_jax.errors import TrainingError

        if __name__ == "__main__":
            import multiprocessing
            options = dict(stage="fusion", train={str(pairs)!r}, crop=24, batch_size=4, seed=5)
            plain = list(itertools.islice(TrainingData(**options).batches(2), 3))
            reader = TrainingData(workers=2, **options).batches(2)
            several = list(itertools.islice(reader, 3))
            assert all(np.array_equal(a[k], b[k]) for a, b in zip(plain, several) for k in a)
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            try:
                for _ in range(10000):
                    next(reader)
                print("never told")
            except TrainingError as error:
                print("told:", error)
        """
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert "told: reading training data failed" in done.stdout, done.stdout + done.stderr[-2000:]
