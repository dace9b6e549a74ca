"""How long rows are in tokens, and what of them is learnt, is counted as a run counts it."""

import io
import json
import sys
import threading
import time
from collections import Counter

import pytest
from forms import add

from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import GossamerError, JobError
from gossamer.jobs.files import tokens
from gossamer.jobs.files.token_counts import TokenCounts
from gossamer.training.data import DataSettings, load_data


def write(tmp_path, rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [{"prompt": f"what is {n}?", "completion": "x" * n} for n in range(1, 8)]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def test_lengths_and_what_is_learnt_are_those_of_a_run(tmp_path, tokenizer):
    path = write(tmp_path, ROWS)
    (found,) = tokens.counts(path, "rows.jsonl", tokenizer)
    loaded = load_data(DataSettings(data=str(path)), tokenizer, seed=0).train
    lengths = Counter(len(example.input_ids) for example in loaded)
    assert found["lengths"] == sorted(lengths.items())
    assert found["tokens"] == sum(len(example.input_ids) for example in loaded)
    assert found["learnt"] == sum(example.trained_tokens for example in loaded)
    assert (found["rows"], found["is_all"]) == (len(ROWS), True)


def test_the_first_rows_are_told_of_before_the_others(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "FIRST_ROWS", 3)
    monkeypatch.setattr(tokens, "ANSWER_SECONDS", 0.0)
    path = write(tmp_path, [ROWS[0], {"prompt": "p"}, *ROWS[1:]])
    found = list(tokens.counts(path, "rows.jsonl", tokenizer))
    assert [(each["rows"], each["is_all"]) for each in found] == [(2, False), (5, False), (7, True)]


def test_answers_of_a_token_are_counted(tmp_path, tokenizer):
    rows = [{"prompt": "p", "completion": word} for word in ("x", "a longer answer than that")]
    (found,) = tokens.counts(write(tmp_path, rows), "rows.jsonl", tokenizer)
    assert found["short_answers"] == 1


@pytest.fixture
def record(files, store):
    """A file of rows that has been uploaded."""
    return add(files, "".join(json.dumps(row) + "\n" for row in ROWS).encode())


@pytest.mark.slow
def test_a_file_is_counted_by_a_process_with_limits(files, record, tiny_model):
    """It loads torch, which takes long where other work runs."""
    assert TokenCounts(files.blobs, tiny_model).of(record)["rows"] == len(ROWS)


def until_all(counts, record):
    while not (found := counts.of(record))["is_all"]:
        time.sleep(0.01)
    return found


def test_a_file_is_counted_once_and_what_was_found_goes_with_its_bytes(
    files, record, tiny_model, monkeypatch
):
    calls, go_on = [], threading.Event()

    def count(path, name):
        calls.append((path.read_bytes(), name))
        yield {"is_all": False, "rows": 1}
        assert go_on.wait(60)
        yield {"is_all": True, "rows": 7}

    counts = TokenCounts(files.blobs, tiny_model)
    monkeypatch.setattr(counts, "_count", count)
    assert counts.of(record) == counts.of(record) == {"is_all": False, "rows": 1}
    go_on.set()
    assert until_all(counts, record) == {"is_all": True, "rows": 7}
    again = TokenCounts(files.blobs, tiny_model)
    monkeypatch.setattr(again, "_count", None)
    # What is being written has a name that begins with a dot.
    while not list(files.blobs.path(record.sha256).parent.glob("[!.]*.counts.*")):
        time.sleep(0.01)
    assert again.of(record) == {"is_all": True, "rows": 7}
    assert calls == [(files.blobs.path(record.sha256).read_bytes(), "file.jsonl")]
    files.blobs.step_aside(record.sha256)
    files.blobs.leave(record.sha256)
    assert not list(files.blobs.path(record.sha256).parent.glob("*"))


@pytest.mark.parametrize(
    ("answers", "said"),
    [([{"error": "no model there"}], "no model there"), ([], "could not be counted")],
)
def test_a_process_that_says_nothing_or_an_error_is_told_in_a_sentence(
    files, record, tmp_path, monkeypatch, answers, said
):
    counts = TokenCounts(files.blobs, tmp_path / "no-model")
    monkeypatch.setattr(counts, "_count", lambda *args: iter(answers))
    with pytest.raises(JobError, match=said):
        counts.of(record)


def test_the_process_answers_line_by_line_and_says_what_is_wrong_with_a_model(
    tmp_path, tiny_model, monkeypatch, capsys
):
    monkeypatch.setattr(tokens, "limit_process", lambda *limits: None)
    monkeypatch.setattr(tokens, "give_way", lambda: None)
    path = write(tmp_path, ROWS)
    for model, key in ((tiny_model, "rows"), (tmp_path / "none", "error")):
        question = {"path": str(path), "name": "rows.jsonl", "model": str(model)}
        limits = {"max_seconds": 1, "max_bytes": 1}
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**question, **limits})))
        assert tokens.main() == 0
        assert key in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_file_that_is_none_is_refused(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GossamerError):
        list(tokens.counts(path, "rows.jsonl", tokenizer))
