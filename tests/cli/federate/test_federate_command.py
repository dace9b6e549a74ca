"""`gossamer federate`: a run from the command line, what it tells, and what it refuses."""

import json
from importlib.util import find_spec
from xml.etree import ElementTree

import pytest
from runs import quiet_tune, write_rows

from gossamer import extras
from gossamer.cli.main import main


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", count=24)


def federate(*arguments):
    return main(["federate", *map(str, arguments)])


def simulate(base, rows, output, *arguments):
    return federate(
        *("simulate", base, "--data", rows, "--output", output, "--clients", 2),
        *("--max-steps", 1, "--rounds", 2, "--dtype", "float32", "--set", "rank=4"),
        *("--set", "batch_size=4", "--set", "eval_split=4", *arguments),
    )


def test_a_run_its_report_and_its_end(tiny_model, rows, tmp_path, capsys):
    output = tmp_path / "run"
    assert simulate(tiny_model, rows, output, "--aggregation", "flora") == 0
    told = capsys.readouterr().out
    assert "round 2/2" in told
    assert "the adapter has rank" in told
    assert "exact" in told
    assert (output / "adapter_config.json").is_file()
    assert len((output / "clients" / "held-out.jsonl").read_text().splitlines()) == 4
    again = "# Repeat this run: gossamer federate simulate --config run.yaml"
    assert (output / "run.yaml").read_text().startswith(again)
    picture = tmp_path / "loss.svg"
    assert federate("report", output, "--rounds", "--picture", picture) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert main(["tune", "--output", str(output), "--resume"]) == 1
    told = capsys.readouterr().err
    assert f"{output} holds a federated run; go on with it by: gossamer federate simulate" in told
    # Finished: there is nothing to go on with, and nothing is overwritten unasked.
    assert federate("simulate", "--output", output, "--resume") == 1
    assert "is finished" in capsys.readouterr().err
    assert simulate(tiny_model, rows, output) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_settings_of_a_file_are_overridden(tiny_model, rows, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {tiny_model}\ndata: {rows}\nrounds: 5\nclients: 2\nmax_steps: 1\n"
        "method_settings: {rank: 2}\nsplit: column:prompt\n"
    )
    code = federate(
        *("simulate", "--config", config, "--output", tmp_path / "run", "--rounds", 1),
        *("--split", "iid", "--dtype", "float32"),
    )
    assert code == 0
    assert "round 1/1" in capsys.readouterr().out
    made = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert made["r"] == 2


def test_a_run_of_one_machine_is_no_federated_one(tiny_model, rows, tmp_path, capsys):
    output = tmp_path / "run"
    run = quiet_tune(tiny_model, rows, output, max_steps=1, batch_size=4)
    again = "# Repeat this run: gossamer tune --config run.yaml"
    assert (output / "run.yaml").read_text().startswith(again)
    assert federate("simulate", "--output", output, "--resume") == 1
    told = capsys.readouterr().err
    assert f"{output} holds a run of one machine; go on with it by: gossamer tune" in told
    # Nor does one replace the run that it goes on from.
    start = ("--overwrite", "--set", f"start_from={run.output}")
    assert simulate(tiny_model, rows, output, *start) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (output / "adapter_config.json").is_file()


def test_bad_rows_are_skipped_and_counted_where_asked(tiny_model, rows, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(rows.read_text() + '{"prompt": "no completion"}\n')
    assert simulate(tiny_model, bad, tmp_path / "run") == 1
    assert "bad.jsonl, line 25: 'completion' is missing" in capsys.readouterr().err
    assert simulate(tiny_model, bad, tmp_path / "run", "--skip-bad-rows") == 0
    assert "1 bad rows left out" in capsys.readouterr().out


BAD = {
    "no output": (["simulate", "M", "--data", "D"], "--output is required"),
    "no aggregation of that name": (["--aggregation", "fedavg"], "--aggregation"),
    "no split of that kind": (["--split", "dirichlet"], "positive number behind the colon"),
    "no clients": (["--clients", "0"], "--clients"),
    "no processes": (["--flower-simulation", "0"], "'0' is no number of processes"),
    "two ways over Flower": (["--flower", "--flower-simulation", "2"], "not allowed with"),
    "no such setting": (["--set", "roundz=3"], "roundz"),
    "a method that is not averaged": (["--method", "smt"], "cannot go with method 'smt'"),
    "what rounds do not have": (["--set", "early_stop=3", "--set", "eval_split=2"], "early_stop"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line_before_anything_is_loaded(case, rows, tmp_path, capsys):
    arguments, reason = BAD[case]
    if arguments[0] != "simulate":
        arguments = [
            *("simulate", "smollm2-135m", "--data", rows, "--output", tmp_path / "run", *arguments)
        ]
    try:
        code = federate(*arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_rounds_is_no_run(tmp_path, capsys):
    assert federate("report", tmp_path) == 2
    assert "holds no round of a federated run" in capsys.readouterr().err


def test_the_extra_is_named(monkeypatch, rows, tmp_path, capsys):
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == "trl" else find_spec(name)
    )
    assert simulate("smollm2-135m", rows, tmp_path / "run") == 2
    assert "federate simulate needs trl" in capsys.readouterr().err


def test_what_needs_flower_says_what_to_install(monkeypatch, tiny_model, rows, tmp_path, capsys):
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == "flwr" else find_spec(name)
    )
    assert simulate(tiny_model, rows, tmp_path / "run", "--flower") == 2
    assert "pip install -e '.[federated]'" in capsys.readouterr().err
    assert simulate(tiny_model, rows, tmp_path / "run", "--flower-simulation", 2) == 2
    assert "pip install -e '.[federated-simulation]'" in capsys.readouterr().err
    assert simulate(tiny_model, rows, tmp_path / "run", "--set", "privacy=server") == 2
    assert "add --flower" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_app_is_written_whether_flower_is_here_or_not(tiny_model, rows, tmp_path, capsys):
    words = ("app", tmp_path / "app", "--model", tiny_model, "--output", tmp_path / "run")
    assert federate(*words) == 2
    assert "--eval-data is required" in capsys.readouterr().err
    held_out = ("--eval-data", rows, "--set", "leave_out=held-out")
    assert federate(*words, *held_out) == 2
    assert "do not have the server's held-out rows" in capsys.readouterr().err
    assert federate(*words, "--eval-data", rows, "--clients", 2, "--set", "rank=4") == 0
    told = capsys.readouterr().out
    assert "README.md says how to start it" in told
    readme = (tmp_path / "app" / "README.md").read_text()
    assert "Each of the 2 clients" in readme
    made = json.loads((tmp_path / "app" / "gossamer_app" / "settings.json").read_text())
    assert made["method_settings"]["rank"] == 4
