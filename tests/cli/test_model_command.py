import json

import pytest

from gossamer.cli.main import main


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path))
    return tmp_path / "models"


def test_list_says_what_is_not_fetched(empty_cache, capsys):
    assert main(["model", "list"]) == 0
    said = capsys.readouterr().out
    assert "smollm2-135m" in said
    assert "(not fetched)" in said


def test_list_as_json(empty_cache, capsys):
    assert main(["model", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["smollm2-135m"]["folder"] is None
    assert rows["smollm2-135m"]["licence"] == "Apache-2.0"


def test_list_shows_a_fetched_model_and_its_size(empty_cache, capsys):
    folder = empty_cache / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(2500))
    manifest = {"alias": "smollm2-135m", "source": {}, "files": {"weights": {"size": 2500}}}
    (folder / "gossamer_model.json").write_text(json.dumps(manifest))
    assert main(["model", "list"]) == 0
    said = capsys.readouterr().out
    assert str(folder) in said
    assert "2.5 kB" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smolm2-135m"], "did you mean 'smollm2-135m'"),
        (["./somewhere"], "no model folder"),
        (["owner/name"], "HF_HUB_OFFLINE"),
        (["smollm2-135m", "--revision", "v1"], "no revisions"),
    ],
)
def test_pull_errors_are_one_line(empty_cache, capsys, arguments, said):
    assert main(["model", "pull", *arguments]) != 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gossamer: error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_pull_prints_the_folder(empty_cache, capsys, monkeypatch):
    monkeypatch.setattr("gossamer.basemodel.find.pull", lambda alias, *, verify: f"/cache/{alias}")
    assert main(["model", "pull", "smollm2-135m"]) == 0
    assert capsys.readouterr().out == "/cache/smollm2-135m\n"
