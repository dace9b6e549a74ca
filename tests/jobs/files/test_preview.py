"""Rows are shown by their places as the model sees them, by a process that no file can hurt."""

import io
import json
import sys

import pytest
from forms import add

from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import DataError, JobError
from gossamer.jobs.files import row_reader
from gossamer.jobs.files.preview import Preview

ROWS = [{"prompt": f"what is {n}?", "completion": "x" * n} for n in range(1, 6)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture(scope="module")
def reader(tiny_model):
    return row_reader.RowReader(load_tokenizer(tiny_model))


def read(reader, tmp_path, text, start=1, count=20, name="rows.jsonl", train_on="completion"):
    path = tmp_path / name
    path.write_text(text)
    return reader.read(str(path), name, start, count, train_on)


def joined(parts, learnt):
    return "".join(part["text"] for part in parts if part["learnt"] == learnt)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_come_by_place_with_what_is_learnt_marked(reader, tmp_path, name):
    text = TEXT if name == "rows.jsonl" else json.dumps(ROWS)
    found = read(reader, tmp_path, text, start=2, count=2, name=name)
    assert [(row["at"], row["row"]) for row in found["data"]] == [(2, 2), (3, 3)]
    assert found["has_more"]
    parts = found["data"][0]["parts"]
    assert joined(parts, True).startswith("xx")
    assert "what is 2?" in joined(parts, False)
    assert found["data"][0]["tokens"] > found["data"][0]["learnt"] > 0
    assert not read(reader, tmp_path, text, start=5, name=name)["has_more"]
    assert read(reader, tmp_path, text, start=6, name=name)["data"] == []


def test_rows_that_cannot_be_used_say_why_and_blank_lines_are_no_rows(reader, tmp_path):
    text = "\n" + TEXT + '{"prompt": "p"}\nnot json\n'
    found = read(reader, tmp_path, text, start=5)["data"]
    assert [row["row"] for row in found] == [6, 7, 8]
    assert found[0]["problem"] is None
    assert "'completion' is missing" in found[1]["problem"]
    assert found[1]["parts"] == [{"text": '{"prompt": "p"}', "learnt": False}]
    assert "invalid JSON" in found[2]["problem"]


def test_what_is_learnt_is_what_the_run_is_asked_to_learn(reader, tmp_path):
    row = read(reader, tmp_path, TEXT, train_on="all")["data"][0]
    assert "what is 1?" in joined(row["parts"], True)


def test_both_answers_of_a_preference_are_shown(reader, tmp_path):
    row = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    found = read(reader, tmp_path, json.dumps(row))["data"][0]
    assert joined(found["parts"], True).startswith("good")
    assert joined(found["rejected"], True).startswith("bad")


def test_long_rows_are_shown_in_part(reader, tmp_path):
    rows = json.dumps({"prompt": "p", "completion": "word " * 5000})
    row = read(reader, tmp_path, rows)["data"][0]
    assert len(joined(row["parts"], True)) < 2 * row_reader.MAX_SHOWN
    assert row["tokens"] > 5000


def test_a_file_that_is_none_is_refused(reader, tmp_path):
    with pytest.raises(DataError):
        read(reader, tmp_path, "oops")


def test_the_process_answers_one_question_after_the_other(
    tmp_path, tiny_model, monkeypatch, capsys
):
    monkeypatch.setattr(row_reader, "limit_process", lambda *limits: None)
    (tmp_path / "rows.jsonl").write_text(TEXT)
    place = {"path": str(tmp_path / "rows.jsonl"), "name": "rows.jsonl", "train_on": "completion"}
    questions = [
        {"model": str(tiny_model), "max_bytes": 1},
        {**place, "start": 1, "count": 1},
        {**place, "path": str(tmp_path / "none.jsonl"), "start": 1, "count": 1},
    ]
    text = "".join(json.dumps(each) + "\n" for each in questions)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert row_reader.main() == 0
    ready, rows, error = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready == {"ready": True}
    assert rows["data"][0]["row"] == 1
    assert "No such file" in error["error"]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Play the process by a script of Python."""

    def fake(script):
        path = tmp_path / "fake.py"
        path.write_text(f"import json, sys\n{script}")
        command = tmp_path / "python"
        command.write_text(f"#!/bin/sh\nexec {sys.executable} {path}\n")
        command.chmod(0o700)
        monkeypatch.setattr("gossamer.jobs.process.sys.executable", str(command))

    return fake


ECHO = """
for line in sys.stdin:
    question = json.loads(line)
    if question.get("start") == 9:
        sys.exit(1)
    print(json.dumps({"data": question.get("start"), "pid": __import__("os").getpid()}), flush=True)
"""


def test_one_process_stays_and_another_takes_the_place_of_one_that_ends(files, fake, tmp_path):
    fake(ECHO)
    record, preview = add(files), Preview(files.blobs, tmp_path)

    def ask(start):
        return preview.rows(record, start=start, count=1, train_on="all")

    first, second = ask(1), ask(2)
    assert (first["data"], second["data"]) == (1, 2)
    assert first["pid"] == second["pid"]
    with pytest.raises(JobError, match="were too much to be shown"):
        ask(9)
    assert ask(3)["pid"] != first["pid"]
    preview.close()


def test_a_process_that_is_too_slow_is_ended(files, fake, tmp_path, monkeypatch):
    fake("import time\ntime.sleep(600)\n")
    monkeypatch.setattr("gossamer.jobs.files.preview.START_SECONDS", 0.2)
    preview = Preview(files.blobs, tmp_path)
    with pytest.raises(JobError, match="took longer than"):
        preview.rows(add(files), start=1, count=1, train_on="all")


def test_a_model_without_a_tokenizer_is_told_of(files, fake, tmp_path):
    fake('print(json.dumps({"error": "no tokenizer"}), flush=True)\n')
    preview = Preview(files.blobs, tmp_path)
    with pytest.raises(JobError, match="no tokenizer"):
        preview.rows(add(files), start=1, count=1, train_on="all")
    preview.close()
