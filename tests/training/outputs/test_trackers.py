"""Trackers hear every step and evaluation, once; nobody is told anything unasked."""

import sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

import pytest
from runs import TINY, quiet_tune, write_rows
from transformers.integrations import integration_utils

from gossamer import extras
from gossamer.errors import MissingExtraError, SettingError
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.metrics import eval_records, read_metrics, train_records

SETTINGS = {**TINY, "max_steps": 4, "eval_every": 2, "eval_split": 2, "save_every": 2}


def read_events(folder):
    """{tag: {step: value}} of all event files in `folder`, void ones left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), purge_orphaned_data=True)
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


class Interrupt(Listener):
    def step(self, record):
        if record["step"] == 4:
            raise RuntimeError("stopped here")


def check_events(folder):
    events, records = read_events(folder / "tensorboard"), read_metrics(folder)
    steps, evals = train_records(records), eval_records(records)
    for tag, name in (("loss", "loss"), ("learning_rate", "learning_rate"), ("tokens", "tokens")):
        expected = [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in steps]
        assert events[f"train/{tag}"] == expected
    expected = [(r["step"], pytest.approx(r["eval_loss"], rel=1e-6)) for r in evals]
    assert events["eval/loss"] == expected
    assert "train/density" in events


def test_tensorboard_has_what_the_metrics_have_after_a_resume_too(tiny_model, tmp_path):
    pytest.importorskip("tensorboard")
    rows = write_rows(tmp_path / "rows.jsonl")
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="stopped here"):
        quiet_tune(
            tiny_model,
            rows,
            run,
            report_to="tensorboard",
            density_loss=0,
            listener=Interrupt(),
            **SETTINGS,
        )
    quiet_tune(output=run, resume=True)
    check_events(run)
    quiet_tune(config=run / "run.yaml", output=run, overwrite=True, report_to=[])
    assert not (run / "tensorboard").exists()


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_others_hear_the_same(name, tiny_model, tmp_path, monkeypatch):
    """With a stand-in for the package, which notes what it is told."""
    told = MagicMock(__spec__=ModuleSpec(name, None), __version__="9.9.9", run=None)
    told.init.side_effect = lambda **options: setattr(told, "run", MagicMock())
    monkeypatch.setitem(sys.modules, name, told)
    # What a run sets is taken back afterwards.
    monkeypatch.setenv("WANDB_PROJECT", "")
    monkeypatch.delenv("WANDB_PROJECT")
    for part in ("sdk", "sdk.lib", "sdk.lib.config_util"):
        stand_in = MagicMock(ConfigError=ValueError)
        monkeypatch.setitem(sys.modules, f"{name}.{part}", stand_in)
    monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: True)
    rows = write_rows(tmp_path / "rows.jsonl")
    result = quiet_tune(tiny_model, rows, tmp_path / "mine", report_to=[name], **SETTINGS)
    options = told.init.call_args.kwargs
    assert (options["project"], options["name"]) == ("gossamer", "mine")
    assert options.get("space_id") is None
    assert not told.freeze.called
    logs = [call.args[0] for call in told.log.call_args_list]
    losses = [log["train/loss"] for log in logs if "train/loss" in log]
    assert losses == result.losses
    assert [log["eval/loss"] for log in logs if "eval/loss" in log][-1] == result.eval_loss


def test_a_missing_package_is_told_before_anything_else(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(MissingExtraError, match=r"report_to=wandb needs wandb; .*'\.\[wandb\]'"):
        quiet_tune(tiny_model, rows, tmp_path / "run", report_to="wandb", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_unknown_trackers_are_refused(tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(SettingError, match="report_to"):
        quiet_tune(tiny_model, rows, tmp_path / "run", report_to="mlflow", **SETTINGS)
