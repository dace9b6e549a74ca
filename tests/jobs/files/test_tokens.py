"""How long rows are in tokens is counted as a run counts it, and what is learnt is marked."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from forms import add

from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import GossamerError, JobError
from gossamer.jobs.files import token_counts, tokens
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
    found = tokens.sample(path, "rows.jsonl", tokenizer)
    loaded = load_data(DataSettings(data=str(path)), tokenizer, seed=0)
    assert found["lengths"] == [len(example.input_ids) for example in loaded.train]
    assert found["learnt"] == [example.trained_tokens for example in loaded.train]
    assert found["is_all"]


def test_rows_are_shown_as_the_model_sees_them(tmp_path, tokenizer):
    path = write(tmp_path, [{"bad": 1, "prompt": "p"}, *ROWS])
    first = tokens.sample(path, "rows.jsonl", tokenizer)["preview"][0]
    assert first["row"] == 2, "rows keep the numbers of their lines"
    learnt = "".join(part["text"] for part in first["parts"] if part["learnt"])
    context = "".join(part["text"] for part in first["parts"] if not part["learnt"])
    assert learnt.startswith("x")
    assert "what is 1?" in context
    assert "what is" not in learnt


def test_of_many_rows_the_first_are_counted(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "FIRST_ROWS", 3)
    found = tokens.sample(write(tmp_path, ROWS), "rows.jsonl", tokenizer)
    assert len(found["lengths"]) == 3
    assert not found["is_all"]


def test_long_rows_are_shown_in_part_and_counted_whole(tmp_path, tokenizer):
    rows = [{"prompt": "p", "completion": "word " * 5000}]
    found = tokens.sample(write(tmp_path, rows), "rows.jsonl", tokenizer)
    shown = "".join(part["text"] for part in found["preview"][0]["parts"])
    assert len(shown) < 2 * tokens.MAX_SHOWN
    assert found["lengths"][0] > 5000


@pytest.fixture
def record(files, store):
    """A file of rows that has been uploaded."""
    return add(files, "".join(json.dumps(row) + "\n" for row in ROWS).encode())


@pytest.mark.slow
def test_a_file_is_counted_by_a_process_with_limits(files, record, tiny_model):
    """It loads torch, which takes long where other work runs."""
    assert len(TokenCounts(files.blobs, tiny_model).of(record)["lengths"]) == len(ROWS)


def test_a_file_is_counted_once_and_what_was_found_goes_with_its_bytes(
    files, record, tiny_model, monkeypatch, capsys
):
    def run(command, input, **options):
        """Play the process in this one, which must not be limited."""
        assert command[-1] == tokens.__name__
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        monkeypatch.setattr(tokens, "limit_process", lambda *limits: None)
        tokens.main()
        return SimpleNamespace(stdout=capsys.readouterr().out)

    monkeypatch.setattr(token_counts.subprocess, "run", run)
    counts = TokenCounts(files.blobs, tiny_model)
    found = counts.of(record)
    assert len(found["lengths"]) == len(ROWS)
    monkeypatch.setattr(counts, "_count", None)
    assert counts.of(record) == found
    files.blobs.step_aside(record.sha256)
    files.blobs.leave(record.sha256)
    assert not list(files.blobs.path(record.sha256).parent.glob("*"))


def test_a_process_that_says_nothing_or_an_error_is_told_in_a_sentence(
    files, record, tmp_path, monkeypatch
):
    counts = TokenCounts(files.blobs, tmp_path / "no-model")
    answers = iter(['{"error": "no model there"}', "Killed", ""])
    monkeypatch.setattr(
        token_counts.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=next(answers))
    )
    with pytest.raises(JobError, match="no model there"):
        counts.of(record)
    monkeypatch.setattr(token_counts, "_stored", lambda place: None)
    for _ in range(2):
        with pytest.raises(JobError, match="could not be counted"):
            counts.of(record)


def test_the_process_says_what_is_wrong_with_a_model(tmp_path, monkeypatch, capsys):
    question = {"path": "x", "name": "x.jsonl", "model": str(tmp_path), "max_seconds": 1}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**question, "max_bytes": 1})))
    assert tokens.main() == 0
    assert str(tmp_path) in json.loads(capsys.readouterr().out)["error"]


def test_a_file_that_is_none_is_refused(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GossamerError):
        tokens.sample(path, "rows.jsonl", tokenizer)
