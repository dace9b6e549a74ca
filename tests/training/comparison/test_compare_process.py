"""Runs in processes of their own: killed, stopped, told to go on."""

import os
import signal

import psutil
import pytest
from runs import step_losses

from gossamer.errors import TrainingError
from gossamer.training.comparison import process
from gossamer.training.comparison.process import ComparisonInterrupted
from gossamer.training.comparison.progress import ComparisonProgress
from gossamer.training.loop.callback import RunInterrupted

FAST = {"methods": "lora:learning_rate=3e-3", "budget": "steps=40"}
RUN = "out/runs/lora-learning_rate-3e-3-seed0"


class AtStep(ComparisonProgress):
    """Does something at the third step."""

    def __init__(self, act):
        super().__init__(show=False)
        self._act = act
        self.steps = 0

    def hear(self, event):
        if event["event"] == "step":
            self.steps += 1
            if self.steps == 3:
                self._act()


@pytest.fixture
def training_apart(here, monkeypatch):
    """Only training has a process of its own."""
    from gossamer.training.comparison import compare

    run_here, run_apart = compare.run_job, process.run_job
    monkeypatch.setattr(
        compare,
        "run_job",
        lambda job, *more: (run_apart if job.kind == "train" else run_here)(job, *more),
    )
    return lambda: monkeypatch.setattr(compare, "run_job", run_here)


@pytest.fixture
def undisturbed(small, tmp_path, here):
    comparison = small("whole", **FAST)
    return comparison.entries[0].runs[0]["evaluation"], step_losses(
        tmp_path / RUN.replace("out", "whole")
    )


def workers():
    """Processes of runs; other tests leave helpers of Python's own behind."""
    children = psutil.Process().children()
    return [child for child in children if "gossamer.training.comparison.worker" in child.cmdline()]


def test_a_killed_run_is_noted_and_goes_on_when_asked_again(
    small, tmp_path, undisturbed, training_apart
):
    def kill():
        (child,) = workers()
        os.kill(child.pid, signal.SIGKILL)

    stopped = small(**FAST, screen=AtStep(kill))
    assert stopped.failed
    assert "its process was killed, probably because" in stopped.entries[0].failures[0]
    assert not workers()
    training_apart()
    check_going_on(small, tmp_path, undisturbed)


@pytest.mark.slow
def test_ctrl_c_saves_the_step_and_goes_on_when_asked_again(
    small, tmp_path, undisturbed, training_apart
):
    def interrupt():
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(ComparisonInterrupted, match="goes on from here"):
        small(**FAST, screen=AtStep(interrupt))
    assert not workers()
    # Stopped at a step that is no multiple of save_every, or by chance is one.
    assert (tmp_path / RUN / "checkpoints").is_dir()
    training_apart()
    check_going_on(small, tmp_path, undisturbed)


def check_going_on(small, tmp_path, undisturbed):
    done = len(step_losses(tmp_path / RUN))
    assert 0 < done < 40
    screen = AtStep(lambda: None)
    evaluation = small(**FAST, screen=screen).entries[0].runs[0]["evaluation"]
    assert screen.steps < 40
    for name in ("value", "loss", "right"):
        assert evaluation[name] == undisturbed[0][name]
    assert step_losses(tmp_path / RUN) == undisturbed[1]


def test_two_comparisons_in_one_folder_are_refused(small, here):
    def another():
        with pytest.raises(TrainingError, match="another comparison is at work in"):
            small(**FAST)
        raise RunInterrupted(".", None)

    with pytest.raises(ComparisonInterrupted):
        small(**FAST, screen=AtStep(another))
