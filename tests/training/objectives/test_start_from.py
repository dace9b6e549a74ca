"""Runs that go on from what another has learnt: where they begin, and what is refused."""

import shutil

import pytest
import torch
from runs import TINY, quiet_tune, write_rows
from safetensors.torch import load_file

from gossamer.errors import CheckpointError, SettingError
from gossamer.training.outputs.metrics import eval_records, read_metrics

CONSTANT = {**TINY, "scheduler": "constant", "warmup": 0}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", count=12)


@pytest.fixture(scope="module")
def first(tiny_model, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    return quiet_tune(tiny_model, rows, folder, max_steps=3, eval_data=str(rows), **CONSTANT)


def weights(run):
    return load_file(run.output / "adapter_model.safetensors")


def test_a_run_begins_with_the_very_tensors_of_another(tiny_model, rows, first, tmp_path):
    second = quiet_tune(
        tiny_model,
        rows,
        tmp_path / "second",
        start_from=str(first.output),
        max_steps=1,
        eval_data=str(rows),
        **{**CONSTANT, "learning_rate": 1e-30},
    )
    for name, tensor in weights(first).items():
        assert torch.equal(weights(second)[name], tensor), name
    before = eval_records(read_metrics(second.output))[0]
    assert before["step"] == 0
    assert before["eval_loss"] == first.eval_loss != first.eval_loss_before


def test_one_run_or_two_differ_by_the_optimizer_alone(tiny_model, rows, first, tmp_path):
    """The step after the start has the loss of the same step in a run that goes through, if it sees
    the same rows; a new optimizer takes another way from there."""
    options = {**CONSTANT, "batch_size": 12}
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", max_steps=4, **options)
    part = quiet_tune(tiny_model, rows, tmp_path / "part", max_steps=2, **options)
    rest = quiet_tune(
        tiny_model, rows, tmp_path / "rest", start_from=str(part.output), max_steps=2, **options
    )
    assert part.losses == whole.losses[:2]
    assert rest.losses[0] == pytest.approx(whole.losses[2], abs=1e-6)
    assert rest.losses[1] != whole.losses[3]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"alpha": 8}, r"was learnt with alpha 32\.0 \(here 8\.0\); give this run the same"),
        ({"rank": 2, "dropout": 0.1}, r"rank 4 \(here 2\), dropout 0\.0 \(here 0\.1\)"),
        ({"target_modules": "mlp"}, r"target_modules 'all-linear' \(here 'mlp'\)"),
    ],
)
def test_other_method_settings_are_named(settings, reason, tiny_model, rows, first, tmp_path):
    with pytest.raises(SettingError, match=reason):
        quiet_tune(
            tiny_model,
            rows,
            tmp_path / "on",
            start_from=str(first.output),
            max_steps=1,
            **{**CONSTANT, **settings},
        )
    assert not (tmp_path / "on").exists()


def test_a_run_does_not_replace_the_one_that_it_goes_on_from(tiny_model, rows, tmp_path):
    settings = {"max_steps": 1, **CONSTANT}
    run = quiet_tune(tiny_model, rows, tmp_path / "run", **settings)
    (tmp_path / "link").symlink_to(run.output)
    before = sorted(run.output.rglob("*"))
    with pytest.raises(SettingError, match=r"link' is the folder of --output .*choose another"):
        quiet_tune(
            tiny_model, rows, run.output, overwrite=True, start_from=str(tmp_path / "link"),
            **settings,
        )  # fmt: skip
    assert sorted(run.output.rglob("*")) == before


@pytest.mark.parametrize("method", ["pissa", "adalora", "lamda", "lorta", "prompt_tuning", "lora"])
def test_a_start_without_its_checkpoint(method, tiny_model, rows, tmp_path):
    """Some methods go on from the adapter; of the others it is said what is missing."""
    settings = {"method": method, "max_steps": 1, "batch_size": 4, "eval_data": str(rows)}
    run = quiet_tune(tiny_model, rows, tmp_path / "run", **settings)
    shutil.rmtree(run.output / "checkpoints")
    settings |= {"start_from": str(run.output)}
    if method == "lora":
        on = quiet_tune(tiny_model, rows, tmp_path / "on", **settings)
        assert on.eval_loss_before == run.eval_loss
        return
    told = rf"step-1 is not there, and method '{method}' .*; keep checkpoints/step-1 of a run"
    with pytest.raises(CheckpointError, match=told):
        quiet_tune(tiny_model, rows, tmp_path / "on", **settings)
    assert not (tmp_path / "on").exists()
