"""A run's settings: made up from file, options and assignments; recorded; compared on resume."""

import pytest

from gossamer import methods
from gossamer.errors import CheckpointError, SettingError, UnknownNameError
from gossamer.training.outputs.run_record import check_continues, read_config, write_run_record
from gossamer.training.settings import RunSettings, assemble

BASE = {"model": "m", "data": "d.jsonl", "output": "o"}


def test_precedence_is_default_then_file_then_option_then_assignment():
    config = {**BASE, "seed": 1, "batch_size": 2, "method_settings": {"rank": 2, "alpha": 4}}
    settings = assemble(config, {"seed": 5, "dtype": None}, {"batch_size": 3, "rank": 8})
    assert (settings.seed, settings.batch_size, settings.dtype) == (5, 3, "auto")
    assert settings.method_settings["rank"] == 8
    assert settings.method_settings["alpha"] == 4
    assert settings.method_settings["dropout"] == 0.0


def test_an_assignment_reaches_run_data_and_method_by_name():
    settings = assemble({}, BASE, {"warmup": 5, "max_length": 64, "target_modules": ["q_proj"]})
    assert (settings.warmup, settings.max_length) == (5, 64)
    assert settings.method_settings["target_modules"] == ["q_proj"]


def test_no_two_settings_have_the_same_name():
    for name in methods.names():
        method = methods.find(name)
        assert not set(method.settings_type.model_fields) & set(RunSettings.model_fields), name


def test_another_method_does_not_inherit_settings():
    config = {**BASE, "method": "lora", "method_settings": {"rank": 2}}
    assert assemble(config, {"method": "full"}, {}).method_settings == {"train_embeddings": True}
    assert assemble(config, {"method": "dora"}, {}).method_settings["rank"] == 16


@pytest.mark.parametrize(
    ("options", "assignments", "message"),
    [
        ({}, {"rnak": 4}, "unknown setting 'rnak'; did you mean 'rank'"),
        ({}, {"max_step": 4}, "did you mean 'max_steps'"),
        ({}, {"train_embeddings": True}, "unknown setting 'train_embeddings'"),
        ({"method": "lorra"}, {}, "unknown method 'lorra'; did you mean 'lora'"),
        ({"dtype": "float8"}, {}, "'dtype' = 'float8'"),
        ({}, {"batch_size": 0}, "'batch_size' = 0"),
        ({}, {"learning_rate": float("nan")}, "'learning_rate' = nan"),
        ({}, {"epochs": -1}, "'epochs' = -1"),
        ({}, {"method_settings": 3}, "'method_settings' = 3"),
    ],
)
def test_mistakes_are_named(options, assignments, message):
    with pytest.raises((SettingError, UnknownNameError)) as raised:
        assemble({}, {**BASE, **options}, assignments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_named():
    with pytest.raises(SettingError, match="setting 'model' is required"):
        assemble({}, {"data": "d", "output": "o"}, {})


def test_the_record_reads_back_as_the_same_settings(tmp_path):
    settings = assemble({}, BASE, {"learning_rate": 3e-4, "rank": 3, "eval_split": 0.25})
    write_run_record(tmp_path, settings, {"versions": {}}, {"steps": 3})
    values, sections = read_config(tmp_path / "run.yaml")
    assert RunSettings.parse(values) == settings
    assert sections == {"recorded": {"versions": {}}, "result": {"steps": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "does not exist"), ("a: [", "line 1: not valid YAML"), ("- a", "setting: value")],
)
def test_config_files_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingError, match=message):
        read_config(path)


FACTS = {"base_fingerprint": "f", "data_sha256": {"d.jsonl": "1"}}


def resumed(before=None, facts=None, finished=False, **changes):
    old = assemble({}, BASE, before or {})
    new = assemble(old.model_dump(), {}, changes)
    check_continues(old, FACTS, new, {**FACTS, **(facts or {})}, finished=finished)


def test_a_run_may_go_on_with_other_checkpoints_and_place():
    resumed(save_every=7, save_total_limit=9, output="elsewhere", log_every=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1.0}, "learning_rate=1.0: the run has None"),
        ({"seed": 3}, "seed=3: the run has 0"),
        ({"rank": 3}, "method_settings="),
        ({"max_length": 3}, "max_length=3: the run has 1024"),
        ({"max_steps": 50}, "max_steps=50: the run has None"),
    ],
)
def test_a_run_cannot_go_on_with_what_changes_its_losses(changes, message):
    with pytest.raises(CheckpointError, match="cannot resume with") as raised:
        resumed(**changes)
    assert message in str(raised.value)


def test_a_run_cannot_go_on_with_other_data_or_another_base():
    with pytest.raises(CheckpointError, match=r"data file 'd.jsonl' has changed"):
        resumed(facts={"data_sha256": {"d.jsonl": "2"}})
    with pytest.raises(CheckpointError, match="base model 'm' has changed"):
        resumed(facts={"base_fingerprint": "g"})


def test_a_finished_run_cannot_go_on_except_with_more_steps_at_a_constant_rate():
    with pytest.raises(CheckpointError, match="finished; there is nothing to resume"):
        resumed(finished=True)
    constant = {"max_steps": 10, "scheduler": "constant", "warmup": 3}
    resumed(constant, finished=True, max_steps=20)
    with pytest.raises(CheckpointError, match="max_steps=5: the run has 10"):
        resumed(constant, max_steps=5)
    with pytest.raises(CheckpointError, match="depends on the number of steps"):
        resumed({"max_steps": 10}, max_steps=20)
    with pytest.raises(CheckpointError, match="depends on the number of steps"):
        resumed({**constant, "warmup": 0.1}, max_steps=20)
