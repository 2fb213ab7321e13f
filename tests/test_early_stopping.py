"""Early stopping on scripted sequences of a validation metric."""

import math

import pytest

from esr_lefuse_jax.training.early_stopping import EarlyStopping


def play(stopping, values):
    """Feeds values at steps 10, 20, ... until it stops; returns it and the step where it stopped."""
    for i, value in enumerate(values, start=1):
        stopping = stopping.update(10 * i, value)
        if stopping.should_stop:
            return stopping, 10 * i
    return stopping, None


def test_stops_at_the_right_evaluation_with_a_nan_in_between():
    sequence = [1.0, 0.8, math.nan, 0.7, 0.75, math.nan, 0.71, 0.1]
    stopping, stopped = play(EarlyStopping(patience=3), sequence)
    assert (stopping.best, stopping.best_step, stopped) == (0.7, 40, 70)


def test_a_nan_at_first_blocks_nothing():
    stopping, stopped = play(EarlyStopping(patience=3), [math.nan, math.nan, 0.9, 0.8])
    assert (stopping.best, stopping.best_step, stopping.misses, stopped) == (0.8, 40, 0, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_the_best(bad):
    for maximize in (False, True):
        stopping, _ = play(EarlyStopping(patience=0, maximize=maximize), [0.5, bad])
        assert (stopping.best, stopping.misses) == (0.5, 1)


def test_only_nan_stops_too():
    assert play(EarlyStopping(patience=2), [math.nan] * 5)[1] == 20


def test_larger_is_better():
    stopping, stopped = play(EarlyStopping(patience=2, maximize=True), [30.0, 31.0, 30.5, 30.9])
    assert (stopping.best, stopping.best_step, stopped) == (31.0, 20, 40)


def test_min_delta():
    stopping, stopped = play(EarlyStopping(patience=2, min_delta=0.1), [1.0, 0.95, 0.91])
    assert (stopping.best_step, stopped) == (10, 30)


def test_equal_is_no_improvement():
    assert play(EarlyStopping(patience=2), [1.0, 1.0, 1.0])[1] == 30


def test_patience_zero_never_stops():
    assert play(EarlyStopping(patience=0), [1.0] + [2.0] * 100)[1] is None


def test_a_resumed_one_goes_on_as_if_nothing_had_happened():
    sequence = [1.0, 0.8, math.nan, 0.9, 0.85]
    unbroken, stopped = play(EarlyStopping(patience=3), sequence)
    half, _ = play(EarlyStopping(patience=3), sequence[:3])
    resumed = EarlyStopping(patience=3).restored(half.state())
    for step, value in ((40, 0.9), (50, 0.85)):
        resumed = resumed.update(step, value)
    assert resumed == unbroken
    assert resumed.should_stop
    assert stopped == 50
