"""What is read of a run while it goes on, in whatever state a kill has left its files."""

import json

import pytest

from gossamer.jobs.run_files import saved_step, step_seconds


def write(run, lines, end=""):
    run.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text + end)


def test_the_last_whole_checkpoint_counts(tmp_path):
    assert saved_step(tmp_path / "none") == 0
    for name in ("step-9", "step-10", ".step-12.tmp", ".step-9.old", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert saved_step(tmp_path) == 10


def test_the_time_of_a_step_is_that_of_the_last_ones(tmp_path):
    run = tmp_path / "run"
    assert step_seconds(run) is None
    write(run, [{"step": 0, "eval_loss": 1.0, "seconds": 99.0}])
    assert step_seconds(run) is None
    slow = [{"step": n, "loss": 1.0, "seconds": 50.0} for n in range(2000)]
    quick = [{"step": n, "loss": 1.0, "seconds": 2.0} for n in range(2000, 2011)]
    write(run, [*slow, *quick], end='{"step": 2011, "lo')
    assert step_seconds(run) == pytest.approx(2.0)
