"""Runs of several stages: one curve, one count of steps, and exact resume across the boundary."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.axes import Axes
from runs import quiet_tune, step_losses, write_rows
from staged import FIRST, Staged

from gossamer.errors import CheckpointError
from gossamer.methods import Stage, registry
from gossamer.training.dry_run import dry_run
from gossamer.training.loop.callback import RunInterrupted
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import (
    eval_records,
    read_metrics,
    stage_records,
    train_records,
)
from gossamer.training.plan import plan_stages, rate_factor
from gossamer.training.settings import RunSettings, assemble

HERE = Path(__file__).parent
HELPERS = HERE.parents[1] / "helpers"
STEPS = 12
SETTINGS = {
    "method": "staged",
    "rank": 4,
    "dropout": 0.2,
    "learning_rate": 3e-3,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "max_steps": STEPS,
    "save_every": 4,
    "save_total_limit": 10,
    "eval_split": 4,
    "warmup": 0.4,
    "scheduler": "linear",
}


@pytest.fixture(autouse=True, scope="module")
def _method():
    registry.register(Staged)
    yield
    del registry.ADDED["staged"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def whole(tiny_model, rows, tmp_path_factory):
    """(run folder, result, texts of the listener's notes) of an undisturbed run."""
    notes = []

    class Notes(Listener):
        def note(self, text):
            notes.append(text)

    output = tmp_path_factory.mktemp("runs") / "whole"
    return output, quiet_tune(tiny_model, rows, output, listener=Notes(), **SETTINGS), notes


class Stop(Listener):
    """Ends the run as a crash would, right after the line of a step."""

    def __init__(self, step):
        self._step = step

    def step(self, record):
        if record["step"] == self._step:
            raise RuntimeError("crash")


def lines(folder):
    """The metrics without what depends on the clock."""
    timed = ("time", "seconds", "tokens_per_second")
    return [{k: v for k, v in r.items() if k not in timed} for r in read_metrics(folder)]


def assert_same(folder, whole):
    assert lines(folder) == lines(whole)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_one_count_of_steps_and_each_line_names_its_stage(whole):
    output, result, _ = whole
    assert result.steps == STEPS
    steps = train_records(read_metrics(output))
    assert [(r["step"], r["stage"]) for r in steps] == [
        (step, "both" if step <= FIRST else "half") for step in range(1, STEPS + 1)
    ]
    evals = [(r["step"], r["stage"]) for r in eval_records(read_metrics(output))]
    # Before and after the step from one stage to the next, which may lose or gain.
    assert evals == [(0, "both"), (FIRST, "both"), (FIRST, "half"), (STEPS, "half")]


def test_each_stage_warms_up_and_decays_by_itself(whole):
    output, _, _ = whole
    rates = [r["learning_rate"] for r in train_records(read_metrics(output))]
    settings = RunSettings(model="m", data="d", output="o", learning_rate=3e-3, warmup=0.4)
    made = plan_stages(Staged({}).stages(Total(STEPS)), settings, total=STEPS)
    expected = [
        stage.learning_rate * rate_factor(step, plan=stage, scheduler="linear")
        for stage in made
        for step in range(stage.steps)
    ]
    assert rates == pytest.approx(expected)
    assert [stage.warmup_steps for stage in made] == [2, 3]
    assert max(rates[:FIRST]) == 3e-3
    assert max(rates[FIRST:]) == 1e-3


class Total:
    def __init__(self, steps):
        self.total_steps = steps


def test_what_is_recorded_of_a_stage(whole):
    output, result, notes = whole
    both, half = stage_records(read_metrics(output))
    assert both["step"] == 0
    assert (half["step"], half["stage_steps"], half["learning_rate"]) == (
        FIRST,
        STEPS - FIRST,
        1e-3,
    )
    assert result.trainable == half["trainable"] < both["trainable"]
    assert len(half["sizes"]) > 1
    assert "sizes" not in result.stages[1]
    record = yaml.safe_load((output / "run.yaml").read_text())
    assert record["result"]["stages"] == result.stages
    card = (output / "README.md").read_text()
    assert f"| stage half | steps 6 to 12, learning rate 0.001, {half['trainable']:,} " in card
    assert f"| stage half: mean size | {half['mean_size']:.4g} |" in card
    assert notes[1].startswith("stage 2 of 2: half, steps 6 to 12, learning rate 0.001, ")


def test_a_checkpoint_names_its_stage_and_a_stage_has_its_own_optimizer(whole):
    output, result, _ = whole
    folders = {path.name: path for path in (output / "checkpoints").iterdir()}
    assert sorted(folders) == ["step-12", "step-4", "step-5", "step-8"]
    names = {n: json.loads((p / "stage.json").read_text())["name"] for n, p in folders.items()}
    assert names == {"step-4": "both", "step-5": "both", "step-8": "half", "step-12": "half"}
    for name, steps in (("step-5", 5), ("step-8", 3)):
        state = torch.load(folders[name] / "optimizer.pt", weights_only=True)["state"]
        assert {int(entry["step"]) for entry in state.values()} == {steps}
    assert sum(entry["exp_avg"].numel() for entry in state.values()) == result.trainable


def test_the_curve_marks_where_a_stage_begins(whole, tmp_path, monkeypatch):
    from gossamer.training.outputs.loss_curve import draw_loss_curve

    drawn = []
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **_: drawn.append(x))
    draw_loss_curve(read_metrics(whole[0]), tmp_path / "curve.png", title="t")
    assert drawn == [FIRST + 0.5]


@pytest.mark.parametrize("crash", [FIRST, FIRST + 1, STEPS])
def test_a_crash_at_any_step_changes_nothing(crash, whole, tiny_model, rows, tmp_path):
    output = tmp_path / "run"
    with pytest.raises(RuntimeError, match="crash"):
        quiet_tune(tiny_model, rows, output, listener=Stop(crash), **SETTINGS)
    quiet_tune(output=output, resume=True)
    assert_same(output, whole[0])


def test_a_stop_by_signal_at_the_boundary_can_go_on(whole, tiny_model, rows, tmp_path):
    class Signal(Listener):
        def step(self, record):
            if record["step"] == FIRST - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    output = tmp_path / "run"
    with pytest.raises(RunInterrupted) as raised:
        quiet_tune(tiny_model, rows, output, listener=Signal(), **SETTINGS)
    assert raised.value.checkpoint == output / "checkpoints" / f"step-{FIRST}"
    quiet_tune(output=output, resume=True)
    assert_same(output, whole[0])


@pytest.mark.slow
def test_kills_around_the_boundary_change_nothing(tiny_model, rows, tmp_path):
    output = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, HERE / "stage_kill_worker.py", tiny_model, rows, output],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == "killed 4 of 4"
    assert_same(output, tmp_path / "run-whole")


def test_a_dry_run_tells_the_stages(whole, tiny_model, rows, tmp_path):
    options = {"model": str(tiny_model), "data": str(rows), "output": str(tmp_path / "run")}
    report = dry_run(assemble({}, options, SETTINGS))
    both, half = (record["trainable"] for record in stage_records(read_metrics(whole[0])))
    assert [line for line in report.lines() if line.startswith("stage ")] == [
        f"stage both: steps 1 to 5, 2 of warm-up, learning rate 0.003, {both:,} parameters",
        f"stage half: steps 6 to 12, 3 of warm-up, learning rate 0.001, {half:,} parameters",
    ]
    assert not (tmp_path / "run").exists()


def test_more_steps_only_where_the_former_stages_stay(tiny_model, rows, tmp_path, monkeypatch):
    settings = {**SETTINGS, "scheduler": "constant", "warmup": 1, "max_steps": 7}
    quiet_tune(tiny_model, rows, tmp_path / "short", **settings)
    long = quiet_tune(tiny_model, rows, tmp_path / "long", **{**settings, "max_steps": 9})
    grown = quiet_tune(output=tmp_path / "short", resume=True, max_steps=9)
    assert grown.losses == long.losses
    assert step_losses(tmp_path / "short") == step_losses(tmp_path / "long")

    def by_share(self, context):
        first = context.total_steps // 3
        return [Stage(name="a", steps=first), Stage(name="b", steps=context.total_steps - first)]

    monkeypatch.setattr(Staged, "stages", by_share)
    with pytest.raises(CheckpointError, match="stages of method 'staged' depend on the number"):
        quiet_tune(output=tmp_path / "short", resume=True, max_steps=12)


@pytest.mark.parametrize("method", ["adalora", "lamda"])
def test_a_schedule_over_all_steps_forbids_more_of_them(method, tiny_model, rows, tmp_path):
    settings = {"batch_size": 4, "scheduler": "constant", "warmup": 0, "max_steps": 4}
    quiet_tune(tiny_model, rows, tmp_path / "run", method=method, **settings)
    with pytest.raises(CheckpointError, match=f"what method '{method}' does in a step depends"):
        quiet_tune(output=tmp_path / "run", resume=True, max_steps=6)


def test_lamda_that_never_freezes_may_go_on(tiny_model, rows, tmp_path):
    settings = {"method": "lamda", "rank": 4, "freeze_share": None, "batch_size": 4}
    settings |= {"scheduler": "constant", "warmup": 0}
    quiet_tune(tiny_model, rows, tmp_path / "short", max_steps=2, **settings)
    long = quiet_tune(tiny_model, rows, tmp_path / "long", max_steps=3, **settings)
    assert quiet_tune(output=tmp_path / "short", resume=True, max_steps=3).losses == long.losses


@pytest.mark.parametrize("steps", [[3, 4], [7, 0], [], [3, 3]])
def test_stages_that_do_not_make_up_the_run_are_a_mistake(steps):
    settings = RunSettings(model="m", data="d", output="o", learning_rate=1e-3)
    stages = [Stage(name=f"s{i}", steps=count) for i, count in enumerate(steps)]
    with pytest.raises(ValueError, match="do not make up a run of 8 steps"):
        plan_stages(stages, settings, total=8)
