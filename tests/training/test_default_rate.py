"""The learning rate of a run that names none: told, recorded, and kept when the run goes on."""

import pytest

from gossamer.training.arguments import collect
from gossamer.training.dry_run import dry_run
from gossamer.training.outputs.metrics import read_metrics, train_records
from gossamer.training.outputs.run_record import read_config
from gossamer.training.run import tune

from tiny import make_tiny_model

SETTINGS = {"max_steps": 2, "warmup": 0, "scheduler": "constant", "batch_size": 4}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(8 * '{"prompt": "two and two?", "completion": "four"}\n')
    return path


def test_it_is_that_of_the_width_and_is_told_and_recorded(tmp_path, tiny_model, rows, capsys):
    output = tmp_path / "run"
    tune(tiny_model, rows, output, method="lora", **SETTINGS)
    assert {record["learning_rate"] for record in train_records(read_metrics(output))} == {1e-3}
    values, sections = read_config(output / "run.yaml")
    assert values["learning_rate"] == 1e-3
    source = "default of lora at hidden size 48"
    assert sections["recorded"]["learning_rate_source"] == source
    assert f"learning rate 0.001 ({source})" in capsys.readouterr().out
    tune(output=output, resume=True, max_steps=3)
    assert read_config(output / "run.yaml")[1]["recorded"]["learning_rate_source"] == source


def test_one_that_is_given_has_no_source(tmp_path, tiny_model, rows, capsys):
    output = tmp_path / "run"
    tune(tiny_model, rows, output, method="lora", learning_rate=2e-3, **SETTINGS)
    values, sections = read_config(output / "run.yaml")
    assert values["learning_rate"] == 2e-3
    assert "learning_rate_source" not in sections["recorded"]
    assert "learning rate 0.002," in capsys.readouterr().out


def test_a_wider_model_has_a_lower_one(tmp_path, rows):
    folder = make_tiny_model(tmp_path / "wide", hidden_size=1024, num_hidden_layers=1)
    settings, _ = collect(
        None,
        {"model": str(folder), "data": str(rows), "output": str(tmp_path / "run"), "method": "smt"},
        {"block_size": 16, **SETTINGS},
        resume=False,
    )
    lines = dry_run(settings).lines()
    assert "learning rate: 0.00051 (default of smt at hidden size 1024), constant" in lines
