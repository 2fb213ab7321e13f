"""Training in processes of its own: several devices and processes, kill -9, SIGTERM, locks, a dead peer."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from esr_lefuse_jax.training import inputs, loop
from esr_lefuse_jax.training.checkpointing import Checkpoints
from esr_lefuse_jax.training.logging import read_metrics
from tests.training_support import open_memory_data, tiny_config

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).with_name("training_support.py")
LIMIT = 240  # seconds for any one process


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def start(workdir, changes, *, processes=None, index=0, port=None, environment=None, devices=1):
    """Starts the training program; its output goes to a file beside the run folder."""
    command = [sys.executable, str(PROGRAM), str(workdir), json.dumps(changes)]
    if processes:
        command += [str(processes), str(index), str(port)]
    variables = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **(environment or {}),
    }
    with open(f"{workdir}.{index}.log", "a") as log:
        return subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)


def output(workdir, index=0):
    return pathlib.Path(f"{workdir}.{index}.log").read_text()


def wait_for(process, seconds=LIMIT):
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def wait_until(condition, process, seconds=LIMIT):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.02)


def losses(folder):
    return {line["step"]: line["loss"] for line in read_metrics(folder) if line["split"] == "train"}


def validation(folder):
    return [(line["step"], line["loss"]) for line in read_metrics(folder) if line["split"] == "validation"]


def order_in(path):
    """Examples by step; a step done twice must have had the same ones."""
    found = {}
    for line in path.read_text().splitlines():
        step, examples = json.loads(line)
        assert found.setdefault(step, examples) == examples
    return found


def in_process(monkeypatch, folder, stage, **changes):
    monkeypatch.setattr(inputs, "open_data", open_memory_data, raising=False)
    loop.train_and_evaluate(tiny_config(stage, **changes), folder)
    return losses(folder)


@pytest.mark.parametrize("stage", ["sr", "fusion"])
def test_first_twenty_losses_are_equal_on_one_device_four_devices_and_two_processes(
    tmp_path, monkeypatch, stage
):
    changes = {"steps": 20, "eval.every_steps": 20, "optimizer.warmup_steps": 20, "eval.pictures": 1}
    # A bias right before a batch norm has no true gradient; Adam with its usual epsilon would scale the rounding noise
    # of such gradients up to whole steps, and those differ between any two orders of summation.
    changes["optimizer.epsilon"] = 1e-3
    port = free_port()
    shared = tmp_path / "two"
    pair = [start(shared, {**changes, "stage": stage}, processes=2, index=i, port=port) for i in range(2)]
    one = in_process(monkeypatch, tmp_path / "one", stage, **changes, **{"parallel.devices": 1})
    four = in_process(monkeypatch, tmp_path / "four", stage, **changes, **{"parallel.devices": 4})
    assert [wait_for(process) for process in pair] == [0, 0], output(shared)
    two = losses(shared)
    assert list(one) == list(four) == list(two) == list(range(1, 21))
    for step, loss in one.items():
        assert four[step] == pytest.approx(loss, rel=1e-5), step
        assert two[step] == pytest.approx(loss, rel=1e-5), step


def test_going_on_with_another_number_of_devices(tmp_path, monkeypatch):
    changes = {"eval.every_steps": 4, "optimizer.warmup_steps": 8, "checkpoint.allow_changes": True}
    unbroken = in_process(
        monkeypatch, tmp_path / "unbroken", "sr", steps=8, **changes, **{"parallel.devices": 1}
    )
    for first, second in ((1, 4), (4, 1)):
        folder = tmp_path / f"{first}{second}"
        in_process(monkeypatch, folder, "sr", steps=4, **changes, **{"parallel.devices": first})
        resumed = in_process(monkeypatch, folder, "sr", steps=8, **changes, **{"parallel.devices": second})
        for step, loss in unbroken.items():
            assert resumed[step] == pytest.approx(loss, rel=1e-5), step


def test_killed_ten_times_it_ends_as_if_nothing_had_happened(tmp_path):
    """kill -9 at all sorts of moments, some in the middle of a save: same order, same losses, bit for bit."""
    changes = {"steps": 24, "eval.every_steps": 8, "checkpoint.every_steps": 2, "optimizer.ema_decay": 0.9}

    def run(name):
        environment = {"TEST_ORDER_FILE": str(tmp_path / f"{name}.order"), "TEST_STEP_SECONDS": "0.05"}
        return start(tmp_path / name, changes, environment=environment)

    assert wait_for(run("unbroken")) == 0
    folder = tmp_path / "killed"
    in_mid_save = 0
    for kill in range(10):
        process = run("killed")
        begun = f"step {2 * kill + 1}/24"  # every life lasts about a save longer than the one before
        wait_until(lambda begun=begun: begun in output(folder), process)
        if kill % 2:  # wait for the next save to be under way
            unfinished = folder / "checkpoints"
            wait_until(lambda f=unfinished: any(f.glob("*tmp*")) or "done at" in output(folder), process)
            in_mid_save += any(unfinished.glob("*tmp*"))
        process.send_signal(signal.SIGKILL)
        assert wait_for(process) == -signal.SIGKILL
        saved = Checkpoints(folder / "checkpoints").steps()
        last = max(losses(folder))
        assert last - max(saved, default=0) <= 4, "more than one save interval was lost"
    assert wait_for(run("killed")) == 0, output(folder)
    assert in_mid_save >= 2
    assert losses(folder) == losses(tmp_path / "unbroken")
    assert validation(folder) == validation(tmp_path / "unbroken")
    assert order_in(tmp_path / "killed.order") == order_in(tmp_path / "unbroken.order")
    assert "damaged" not in output(folder)


@pytest.mark.parametrize("moment", ["compilation", "step", "evaluation"])
def test_sigterm_saves_and_exits_with_143(tmp_path, moment):
    changes = {"steps": 500, "eval.every_steps": 500, "log.every_steps": 1}
    if moment == "evaluation":
        changes |= {"eval.every_steps": 2}
    folder = tmp_path / "run"
    # Long steps; a cold cache makes the compilation last.
    environment = {"TEST_STEP_SECONDS": "0.2"}
    if moment == "compilation":
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "cold")
    process = start(folder, changes, environment=environment)
    mark = {"compilation": "start:", "step": "step 3/500", "evaluation": "step 2/500"}[moment]
    wait_until(lambda: mark in output(folder), process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert wait_for(process, 90) == 143
    if moment != "compilation":
        assert time.monotonic() - asked < 30
    assert "interrupted at step" in output(folder)
    restored = Checkpoints(folder / "checkpoints").restore()
    assert restored.step == max(losses(folder), default=0)
    again = start(folder, {**changes, "steps": restored.step + 2, "checkpoint.allow_changes": True})
    assert wait_for(again) == 0
    assert list(losses(folder)) == list(range(1, restored.step + 3))


def test_sigterm_to_one_of_two_processes_stops_both(tmp_path):
    folder, port = tmp_path / "run", free_port()
    environment = {"TEST_STEP_SECONDS": "0.3"}
    changes = {"steps": 500, "eval.every_steps": 500}
    pair = [
        start(folder, changes, processes=2, index=i, port=port, environment=environment) for i in range(2)
    ]
    wait_until(lambda: "step 2/500" in output(folder), pair[0])
    asked = time.monotonic()
    pair[1].send_signal(signal.SIGTERM)
    assert [wait_for(process, 90) for process in pair] == [143, 143], output(folder) + output(folder, 1)
    assert time.monotonic() - asked < 60
    restored = Checkpoints(folder / "checkpoints").restore()
    assert restored.step == max(losses(folder))


def test_a_dead_peer_ends_the_survivor(tmp_path):
    folder, port = tmp_path / "run", free_port()
    changes = {"steps": 500, "eval.every_steps": 500, "parallel.heartbeat_seconds": 10}
    environment = {"TEST_STEP_SECONDS": "0.3"}
    pair = [
        start(folder, changes, processes=2, index=i, port=port, environment=environment) for i in range(2)
    ]
    wait_until(lambda: "step 2/500" in output(folder), pair[0])
    pair[1].kill()
    assert wait_for(pair[0], 10 + 30) != 0
    pair[1].wait()


def test_a_second_writer_is_refused_at_once(tmp_path):
    folder = tmp_path / "run"
    changes = {"steps": 500, "eval.every_steps": 500}
    first = start(folder, changes, environment={"TEST_STEP_SECONDS": "0.2"})
    try:
        wait_until(lambda: "start:" in output(folder), first)
        second = start(folder, changes, index=1)
        assert wait_for(second) == 2
        message = output(folder, 1).strip().splitlines()[-1]
        assert message.startswith("error: ")
        assert f"process {first.pid}" in message
        assert "is training here" in message
    finally:
        first.kill()
        first.wait()


def test_bad_steps_end_the_program_with_one_line(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, {"nonfinite_limit": 3}, environment={"TEST_BAD_STEPS": "all"})
    assert wait_for(process) == 2
    assert output(folder).strip().splitlines()[-1].startswith("error: 3 steps in a row up to step 3")
    assert "Traceback" not in output(folder)
