"""Sparse compute in a run: refused early, reported at the end, resumed exactly."""

import pytest
import torch
from runs import TINY, quiet_tune, step_losses, write_rows

from gossamer import methods
from gossamer.errors import GossamerError
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import read_metrics, train_records
from gossamer.training.outputs.model_card import result_rows

PLAN = """\
name: tiny
num_layers: 3
mlp: {"1-2": 0.6}
attention: {2: 0.5}
start: 2
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def tune_tiny(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "home"))
    rows = write_rows(tmp_path / "rows.jsonl")

    def run(name, **settings):
        settings = {"max_steps": 8, "eval_split": 0.2, **TINY, **settings}
        settings = {key: value for key, value in settings.items() if value is not None}
        return quiet_tune(tiny_model, rows, tmp_path / name, **settings)

    return run


def test_a_run_reports_work_kept_and_step_times(tune_tiny, plan, tmp_path):
    dense, sparse = tune_tiny("dense"), tune_tiny("sparse", sparse_compute=str(plan))
    records = train_records(read_metrics(tmp_path / "sparse"))
    assert [record["work_kept"] == 1.0 for record in records] == [True] * 2 + [False] * 6
    assert 0.5 < sparse.work_kept < 1.0
    assert sparse.dense_step_seconds > 0
    assert sparse.sparse_step_seconds > 0
    table = dict(result_rows(sparse))
    assert table["base and adapter work kept, by FLOPs"] == f"{sparse.work_kept:.1%}"
    assert "median step, sparse" in table
    assert dense.work_kept is None
    # The dense start is the dense run; evaluation is dense before and after.
    assert sparse.losses[:2] == dense.losses[:2]
    assert sparse.losses[2:] != dense.losses[2:]
    assert sparse.eval_loss_before == dense.eval_loss_before
    assert 0 < sparse.choosing_work < 0.2
    assert table["of this, to choose and replace channels"] == f"{sparse.choosing_work:.2%}"
    # What the guesses of the criterion svd need is not made.
    assert not (tmp_path / "home" / "sparsity").exists()


@pytest.mark.parametrize("method", ["lora", "dora", "loreft"])
def test_a_way_back_for_few_tokens_leaves_the_first_loss_exact(tune_tiny, tmp_path, method):
    path = tmp_path / "back.yaml"
    path.write_text("num_layers: 3\nback: {0-2: 0.8}\nstart: 0\n")
    dense = tune_tiny("dense", method=method)
    few = tune_tiny("few", method=method, sparse_compute=str(path))
    assert few.losses[0] == pytest.approx(dense.losses[0], rel=1e-6)
    assert few.losses[-1] != dense.losses[-1]
    assert few.losses[-1] == pytest.approx(dense.losses[-1], rel=0.1)
    assert 0.5 < few.work_kept < 1
    assert few.choosing_work == 0
    assert few.dense_step_seconds is None


@pytest.mark.parametrize("method", ["lora", "dora", "rslora"])
def test_more_methods_compute_sparsely(tune_tiny, plan, method):
    result = tune_tiny("run", sparse_compute=str(plan), method=method, gradient_accumulation=2)
    assert result.work_kept < 1
    assert result.losses[-1] < result.losses[0]


def test_gradient_checkpointing_changes_no_loss(tune_tiny, plan):
    options = {"sparse_compute": str(plan), "gradient_accumulation": 2}
    plain = tune_tiny("plain", **options)
    again = tune_tiny("checkpointing", gradient_checkpointing=True, **options)
    torch.testing.assert_close(
        torch.tensor(plain.losses), torch.tensor(again.losses), rtol=1e-4, atol=1e-4
    )
    assert plain.work_kept == again.work_kept


class StopAfter(Listener):
    def __init__(self, step):
        self._step = step

    def step(self, record):
        if record["step"] == self._step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("criterion", ["sample", "svd", "random"])
def test_a_resumed_run_goes_on_to_the_same_losses(tune_tiny, tmp_path, criterion):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN + f"criterion: {criterion}\n")
    options = {"sparse_compute": str(path), "save_every": 2}
    whole = tune_tiny("whole", **options)
    with pytest.raises(KeyboardInterrupt):
        tune_tiny("cut", listener=StopAfter(5), **options)
    tune_tiny("cut", resume=True, **options)
    assert step_losses(tmp_path / "cut") == list(enumerate(whole.losses, start=1))


def test_a_changed_plan_stops_a_resumed_run(tune_tiny, plan):
    options = {"sparse_compute": str(plan), "save_every": 2}
    with pytest.raises(KeyboardInterrupt):
        tune_tiny("cut", listener=StopAfter(5), **options)
    plan.write_text(PLAN.replace("0.6", "0.5"))
    with pytest.raises(GossamerError, match="the plan of sparse_compute has changed"):
        tune_tiny("cut", resume=True, **options)


REFUSED = [name for name in methods.names() if methods.find(name).dense_because is not None]


@pytest.mark.parametrize("name", REFUSED)
def test_methods_without_slices_are_refused_by_name_before_anything_is_written(
    tune_tiny, plan, tmp_path, monkeypatch, name
):
    monkeypatch.setattr("gossamer.training.run.build_model", None)
    words = f"method '{name}': {methods.find(name).dense_because}; use a method such as lora"
    with pytest.raises(GossamerError, match=words):
        tune_tiny("refused", sparse_compute=str(plan), method=name, rank=None)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sparse_compute": "llama3-8b-math10"}, "did you mean .*'llama3-8b-math10k'"),
        ({"sparse_compute": "llama3-8b-math10k"}, "is for a model of 32 layers; this one has 3"),
        ({"sparse_compute": "no/such.yaml"}, "'no/such.yaml' does not exist"),
    ],
)
def test_wrong_plans_are_refused_before_anything_is_written(
    tune_tiny, plan, tmp_path, change, words
):
    options = {"sparse_compute": str(plan), **change}
    with pytest.raises(GossamerError, match=words):
        tune_tiny("refused", **options)
    assert not (tmp_path / "refused").exists()
