"""Runs with a density loss: it lowers the density, and changes nothing where it is off."""

import pytest
from cases import CASES
from method_helpers import base_folder
from runs import TINY, quiet_tune, step_losses, write_rows

from gossamer.errors import SettingError
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import eval_records, read_metrics, train_records
from gossamer.training.outputs.model_card import result_rows

from tiny import make_tiny_model


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def relu_runs(rows, tmp_path_factory):
    """Results with weights 0 and 1 of runs on a ReLU model."""
    folder = tmp_path_factory.mktemp("relu")
    base = make_tiny_model(folder / "base", hidden_act="relu")
    return [
        quiet_tune(
            base,
            rows,
            folder / f"weight-{weight}",
            max_steps=60,
            eval_split=6,
            density_loss=weight,
            density_epsilon=1e-3,
            **TINY,
        )
        for weight in (0, 1)
    ]


def test_the_density_falls_at_an_equal_loss(relu_runs):
    without, lowered = relu_runs
    assert lowered.eval_loss == pytest.approx(without.eval_loss, rel=0.01)
    assert lowered.eval_density_before == without.eval_density_before
    assert without.eval_density > 0.45
    assert lowered.eval_density < 0.8 * without.eval_density
    assert lowered.density < 0.8 * without.density


def test_it_is_in_metrics_record_and_card(relu_runs):
    lowered = relu_runs[1]
    records = read_metrics(lowered.output)
    steps = train_records(records)
    assert steps[-1]["density_term"] < steps[0]["density_term"] < 1
    assert [r["eval_density"] for r in eval_records(records)] == [
        lowered.eval_density_before,
        lowered.eval_density,
    ]
    table = dict(result_rows(lowered))
    assert table["activation density, held-out rows"] == f"{lowered.eval_density:.2%}"
    record = (lowered.output / "run.yaml").read_text()
    assert "density_above: 0.0\n" in record
    assert f"eval_density: {lowered.eval_density}" in record
    assert "an activation is dense above" in (lowered.output / "README.md").read_text()


def test_a_weight_of_0_is_the_run_without(tiny_model, rows, tmp_path):
    plain = quiet_tune(tiny_model, rows, tmp_path / "plain", max_steps=4, dropout=0.1, **TINY)
    measured = quiet_tune(
        tiny_model, rows, tmp_path / "zero", max_steps=4, dropout=0.1, density_loss=0, **TINY
    )
    assert measured.losses == plain.losses
    assert measured.density is not None
    assert plain.density is None
    weights = [(tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("plain", "zero")]
    assert weights[0] == weights[1]


def test_the_reported_loss_is_the_tasks_and_accumulation_weighs_the_term_once(
    tiny_model, rows, tmp_path
):
    settings = {**TINY, "max_steps": 2, "max_grad_norm": 0, "density_loss": 50.0}
    settings |= {"density_epsilon": 1e-2, "warmup": 0}
    plain = quiet_tune(tiny_model, rows, tmp_path / "plain", **{**settings, "density_loss": 0})
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", **settings)
    parts = quiet_tune(
        tiny_model,
        rows,
        tmp_path / "parts",
        **{**settings, "batch_size": 2},
        gradient_accumulation=2,
    )
    assert whole.losses[0] == plain.losses[0]
    assert whole.losses[1] != plain.losses[1]
    norms = [train_records(read_metrics(r.output))[0]["grad_norm"] for r in (whole, parts, plain)]
    # Rows have nearly the same length, so the mean of two passes is nearly that of one.
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert abs(norms[2] - norms[0]) > 0.2 * norms[0]


SLOW = ("lora", "houlsby", "loreft", "prompt_tuning", "slora", "smt", "sparsegrad", "full")


class Interrupt(Listener):
    def step(self, record):
        if record["step"] == 3:
            raise RuntimeError("stopped here")


@pytest.mark.parametrize(
    "name",
    ["ia3", "prefix_tuning", "sherl", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)],
)
def test_methods_take_it_and_resumes_exactly(name, rows, tmp_path):
    case = CASES[name]

    def run(folder, **options):
        return quiet_tune(
            base_folder(case.model_type),
            rows,
            tmp_path / folder,
            method=name,
            max_steps=4,
            batch_size=2,
            save_every=2,
            learning_rate=case.rate,
            density_loss=1.0,
            **case.settings,
            **options,
        )

    whole = run("whole")
    assert 0 < whole.density <= 1
    with pytest.raises(RuntimeError, match="stopped here"):
        run("parts", listener=Interrupt())
    quiet_tune(output=tmp_path / "parts", resume=True)
    assert step_losses(tmp_path / "parts") == step_losses(tmp_path / "whole")
    figures = [
        [(r["density"], r["density_term"]) for r in train_records(read_metrics(tmp_path / part))]
        for part in ("whole", "parts")
    ]
    assert figures[0] == figures[1]


def test_it_goes_with_bfloat16_and_checkpointing(tiny_model, rows, tmp_path):
    result = quiet_tune(
        tiny_model,
        rows,
        tmp_path / "run",
        max_steps=2,
        dtype="bf16",
        gradient_checkpointing=True,
        density_loss=1.0,
        **TINY,
    )
    assert 0 < result.density < 1


def test_what_it_cannot_go_with_is_refused(tiny_model, rows, tmp_path):
    with pytest.raises(SettingError, match="density_loss cannot go with sparse_compute"):
        quiet_tune(
            tiny_model, rows, tmp_path / "run", density_loss=1.0, sparse_compute=str(plan(tmp_path))
        )
    assert not (tmp_path / "run").exists()


def test_a_method_whose_gradients_it_has_no_part_in_only_has_its_density_measured(rows, tmp_path):
    def run(folder, weight):
        return quiet_tune(
            base_folder("llama"), rows, tmp_path / folder, method="meft", density_loss=weight,
            max_steps=2, batch_size=2, learning_rate=5e-3, **CASES["meft"].settings,
        )  # fmt: skip

    with pytest.raises(SettingError, match=r"density_loss=0\.5 cannot go with method 'meft'"):
        run("refused", 0.5)
    assert not (tmp_path / "refused").exists()
    assert 0 < run("measured", 0).density < 1
    record = train_records(read_metrics(tmp_path / "measured"))[0]
    assert "density" in record
    assert "density_term" not in record


def plan(folder):
    path = folder / "plan.yaml"
    path.write_text('name: tiny\nnum_layers: 3\nmlp: {"1-2": 0.6}\nstart: 2\n')
    return path
