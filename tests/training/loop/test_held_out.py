"""Early stopping and the best checkpoint: judged by the held-out loss, the same after a resume."""

import pytest
from cases import CASES
from method_helpers import base_folder
from runs import TINY, quiet_tune, step_losses, write_rows

from gossamer.errors import SettingError
from gossamer.training.loop.callback import RunCallback
from gossamer.training.loop.held_out import HeldOutLoss
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import eval_records, read_metrics
from gossamer.training.outputs.samples import read_samples
from gossamer.training.plan import StagePlan
from gossamer.training.prepare import prepare
from gossamer.training.settings import RunSettings

LOSSES = {0: 1.0, 2: 3.0, 4: 2.0, 6: 2.5, 8: 2.4, 10: 1.0, 12: 1.0}
"""Held-out loss by step: best after 4, and not better in the two evaluations that follow."""


def following(losses, **settings):
    values = {"model": "m", "data": "d", "output": "o", "eval_split": 1, "eval_every": 1}
    stage = StagePlan(index=0, name="s", start=0, steps=99, learning_rate=1.0, warmup_steps=0)
    records = [{"step": n, "eval_loss": loss} for n, loss in enumerate(losses)]
    return HeldOutLoss(RunSettings(**values, **settings), stage, records)


def test_the_best_is_the_first_of_the_lowest_and_never_the_untrained():
    held_out = following([0.1, 3.0, 2.0, 2.0, 2.5])
    assert (held_out.best_step, held_out.best_loss) == (2, 2.0)
    assert following([0.1]).best_step is None


@pytest.mark.parametrize(
    ("losses", "threshold", "over"),
    [
        ([0.1, 3.0, 2.0, 2.1, 2.2], 0.0, True),
        ([0.1, 3.0, 2.0, 2.1], 0.0, False),
        ([0.1, 3.0, 3.1, 2.9, 3.2], 0.0, False),
        # Small steps down count once they add up to the threshold.
        ([0.1, 3.0, 2.95, 2.9], 0.2, True),
        ([0.1, 3.0, 2.9, 2.7, 2.65], 0.2, False),
    ],
)
def test_patience(losses, threshold, over):
    assert following(losses, early_stop=2, early_stop_threshold=threshold).over is over
    assert not following(losses).over


@pytest.mark.parametrize("wanted", [{"early_stop": 2}, {"load_best_at_end": True}])
def test_it_needs_rows_and_evaluations(wanted):
    base = {"model": "m", "data": "d", "output": "o", **wanted}
    name = next(iter(wanted))
    with pytest.raises(SettingError, match=f"{name} needs held-out rows; give eval_data"):
        RunSettings.parse(base)
    with pytest.raises(SettingError, match=f"{name} needs eval_every"):
        RunSettings.parse({**base, "eval_split": 2})


@pytest.mark.parametrize("method", ["loraprune", "adalora"])
@pytest.mark.parametrize("wanted", [{"early_stop": 2}, {"load_best_at_end": True}])
def test_a_method_that_shrinks_along_the_way_ends_at_its_last_step(wanted, method):
    more = {"method": method, "eval_split": 2, "eval_every": 1, **wanted}
    settings = RunSettings.parse({"model": "m", "data": "d", "output": "o", **more})
    with pytest.raises(SettingError, match=f"{next(iter(wanted))} cannot go with .*'{method}'"):
        prepare(settings)


class Stops(Listener):
    """Stops dead after step `step`, or where the last one is done."""

    def __init__(self, step=None):
        self._step = step
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def step(self, record):
        if record["step"] == self._step:
            raise RuntimeError("stopped here")

    def trained(self, model, result):
        if self._step == "end":
            raise RuntimeError("stopped here")


def judge(monkeypatch):
    """Have the held-out loss be that of the table."""
    real = RunCallback.on_evaluate

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_loss"] = LOSSES[state.global_step]
        real(self, args, state, control, metrics, **kwargs)

    monkeypatch.setattr(RunCallback, "on_evaluate", on_evaluate)


@pytest.fixture
def judged(monkeypatch):
    judge(monkeypatch)


WATCHED = {"max_steps": 12, "eval_every": 2, "eval_split": 2, "scheduler": "constant"}


def test_the_run_ends_and_the_best_adapter_is_the_result(judged, tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")

    def run(folder, **settings):
        settings = {"load_best_at_end": True, "early_stop": 2, "save_total_limit": 1, **settings}
        return quiet_tune(
            tiny_model, rows, tmp_path / folder, dropout=0.1, **{**WATCHED, **TINY, **settings}
        )

    def weights(folder):
        return (tmp_path / folder / "adapter_model.safetensors").read_bytes()

    listener = Stops()
    result = run("run", listener=listener)
    assert (result.steps, result.best_step, result.eval_loss) == (8, 4, 2.0)
    assert any("stopped after step 8: the held-out loss" in note for note in listener.notes)
    assert any("the result is that of step 4" in note for note in listener.notes)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"step-4", "step-8"}
    assert "best_step: 4" in (tmp_path / "run" / "run.yaml").read_text()
    run("four", max_steps=4, load_best_at_end=False, early_stop=None)
    assert weights("run") == weights("four")
    last = run("last", load_best_at_end=False)
    assert (last.steps, last.best_step, last.eval_loss) == (8, None, 2.4)
    assert weights("last") != weights("run")

    for place in (7, "end"):
        with pytest.raises(RuntimeError, match="stopped here"):
            run(f"from-{place}", save_every=3, listener=Stops(place))
        again = quiet_tune(output=tmp_path / f"from-{place}", resume=True)
        assert (again.steps, again.best_step, again.losses) == (8, 4, result.losses)
        assert weights(f"from-{place}") == weights("run")
        assert [r["step"] for r in eval_records(read_metrics(again.output))] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("eval_every", [2, None])
def test_a_longer_run_forgets_what_was_measured_because_the_shorter_one_ended(
    eval_every, tiny_model, tmp_path
):
    rows = write_rows(tmp_path / "rows.jsonl")
    settings = {"eval_every": eval_every, "eval_split": 6, "scheduler": "constant", "warmup": 0}
    settings |= {**TINY, "samples": 1}

    def measured(folder):
        found = eval_records(read_metrics(folder))
        return [(record["step"], record["eval_loss"]) for record in found]

    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", max_steps=6, **settings)
    for end in (3, 4):
        parts = tmp_path / f"parts-{end}"
        quiet_tune(tiny_model, rows, parts, max_steps=end, **settings)
        assert measured(parts)[-1][0] == end
        quiet_tune(output=parts, resume=True, max_steps=6)
        assert step_losses(parts) == step_losses(whole.output)
        assert measured(parts) == measured(whole.output)
        assert [each["step"] for each in read_samples(parts)["answers"]] == [
            each["step"] for each in read_samples(whole.output)["answers"]
        ]


def test_a_longer_run_has_the_checkpoint_of_the_best_step_before_the_former_end(
    monkeypatch, tiny_model, tmp_path
):
    monkeypatch.setitem(LOSSES, 5, 0.5)
    judge(monkeypatch)
    rows = write_rows(tmp_path / "rows.jsonl")
    settings = {**WATCHED, **TINY, "load_best_at_end": True, "warmup": 0, "save_total_limit": 1}
    short = quiet_tune(tiny_model, rows, tmp_path / "run", **{**settings, "max_steps": 5})
    assert (short.best_step, short.eval_loss) == (5, 0.5)
    longer = quiet_tune(output=tmp_path / "run", resume=True, max_steps=8)
    assert (longer.best_step, longer.eval_loss) == (4, 2.0)
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", **{**settings, "max_steps": 8})
    one, other = (run.output / "adapter_model.safetensors" for run in (longer, whole))
    assert one.read_bytes() == other.read_bytes()


def test_of_a_run_in_stages_the_last_one_is_judged(judged, tmp_path):
    case = CASES["slora"]
    settings = {**WATCHED, **case.settings, "sparse_share": 0.5}
    result = quiet_tune(
        base_folder(case.model_type),
        write_rows(tmp_path / "rows.jsonl", 8),
        tmp_path / "run",
        method="slora",
        learning_rate=1e-3,
        batch_size=2,
        load_best_at_end=True,
        early_stop=2,
        save_total_limit=1,
        **settings,
    )
    # Step 4 was the sparse stage's; of the last one step 10 is best, and step 12 no better.
    assert (result.steps, result.best_step) == (12, 10)
    assert step_losses(result.output)[-1][0] == 12
    saved = (result.output / "checkpoints" / "step-10" / "adapter_model.safetensors").read_bytes()
    assert (result.output / "adapter_model.safetensors").read_bytes() == saved
