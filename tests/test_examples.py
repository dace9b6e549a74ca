"""Every example runs as it stands, on a tiny model, and is short enough to be read at once."""

import runpy
import sys

import pytest
from house import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("examples") / "runs"


@pytest.fixture
def run(tiny_model, runs, monkeypatch, capsys):
    def run(name):
        monkeypatch.setattr(sys, "argv", [name, str(tiny_model), str(runs)])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def tuned(run, runs):
    if not runs.exists():
        run("tune")


def test_tune_leaves_two_adapters_that_have_learnt(run, runs):
    found = [line.split() for line in run("tune").splitlines() if "loss" in line and "runs" in line]
    losses = {line[0].rstrip(":"): (float(line[2]), float(line[4])) for line in found}
    assert losses.keys() == {str(runs / "pirate"), str(runs / "poet")}
    assert all(last < first for first, last in losses.values())


@pytest.mark.usefixtures("tuned")
def test_offline_answers_by_each_adapter(run):
    names = [line.partition(":")[0] for line in run("offline").splitlines()]
    assert names == ["base model", "pirate", "poet"]


@pytest.mark.usefixtures("tuned")
def test_blend_answers_by_both(run):
    answers = run("blend").splitlines()
    assert len(answers) == 3
    assert answers[0].startswith("pirate:0.3+poet:0.7: ")


@pytest.mark.usefixtures("tuned")
def test_serve_and_ask_gets_an_answer_of_each_model(run):
    names = [line.partition(":")[0] for line in run("serve_and_ask").splitlines()]
    assert names == ["tiny-llama", "pirate", "poet"]


@pytest.mark.usefixtures("tuned")
def test_verify_finds_what_was_learnt(run):
    out = run("verify")
    assert out.count("passed: True") == 5
    assert "pirate against PEFT: 8 of 8 tokens are equal" in out


def test_examples_are_short_and_all_have_a_test():
    tests = " ".join(name for name in globals() if name.startswith("test_"))
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) <= 30, path.name
        assert path.stem in tests
