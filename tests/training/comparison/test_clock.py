"""Time left, from what has been seen."""

import pytest

from gossamer.training.comparison.progress import RemainingTime


def test_nothing_is_said_before_the_first_step():
    clock = RemainingTime(2, scoring=10)
    clock.begin()
    assert clock.left_of_run() is None
    clock.started(10, 0)
    assert clock.left_of_run() is None
    assert clock.left() is None


def test_a_run_is_its_steps_and_its_scoring():
    clock = RemainingTime(3, scoring=10)
    clock.begin()
    clock.started(10, 0)
    clock.step(1, 2.0)
    assert clock.left_of_run() == pytest.approx(9 * 2 + 10)
    assert clock.left() == pytest.approx(9 * 2 + 10 + 2 * (20 + 10))
    clock.step(10, 2.0)
    clock.scored(3, 4)
    assert clock.left_of_run() == pytest.approx(2.5)


def test_finished_runs_tell_how_long_others_take():
    clock = RemainingTime(4, scoring=10)
    clock.begin()
    clock.end(100)
    clock.begin()
    clock.end(None)
    clock.begin()
    clock.started(5, 4)
    clock.step(5, 1.0)
    assert clock.left() == pytest.approx(10 + 100)


def test_a_resumed_run_counts_only_what_is_left():
    clock = RemainingTime(1, scoring=0)
    clock.begin()
    clock.started(10, 8)
    clock.step(9, 3.0)
    assert clock.left() == pytest.approx(3.0)
