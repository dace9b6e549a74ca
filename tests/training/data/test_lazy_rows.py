"""Rows read when they are needed are the rows that are in memory, in the same run."""

import json
import tracemalloc

import pytest
from runs import TINY, quiet_tune, write_rows

from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import DataError, SettingError
from gossamer.training.data import DataSettings, files, load_data
from gossamer.training.data.lazy import JsonLines
from gossamer.training.dry_run import dry_run
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.samples import read_samples
from gossamer.training.settings import RunSettings

MIB = 1 << 20


@pytest.fixture
def rows(tmp_path):
    """Rows with blank lines, a byte order mark and letters of several bytes."""
    path = write_rows(tmp_path / "rows.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("\ufeff" + "".join(lines[:5]) + "\n  \n" + "".join(lines[5:]))
    extra = {"prompt": "Wie heißt du?", "completion": "Ödön\u2028."}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(extra, ensure_ascii=False))
    return path


def load(tiny_model, path, **settings):
    tokenizer = load_tokenizer(tiny_model)
    return load_data(DataSettings(data=str(path), **settings), tokenizer, seed=3)


def parquet(rows):
    import pyarrow
    import pyarrow.parquet

    values = [json.loads(line) for line in rows.read_text("utf-8-sig").split("\n") if line.strip()]
    path = rows.with_suffix(".parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), path, row_group_size=4)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_they_are_the_same_rows(ending, tiny_model, rows, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = rows if ending == "jsonl" else parquet(rows)
    for settings in ({}, {"eval_split": 5}, {"max_rows": 7}, {"max_length": 60}):
        whole = load(tiny_model, path, **settings)
        lazy = load(tiny_model, path, lazy_data=True, **settings)
        assert lazy.train[:] == whole.train
        assert [lazy.train[n] for n in range(len(lazy.train))] == whole.train
        assert lazy.eval == whole.eval
        assert lazy.report.rows_used == whole.report.rows_used
        assert "rows are read as they are needed" in lazy.report.lines()


def test_nothing_is_kept_but_places(tiny_model, rows, monkeypatch):
    lazy = load(tiny_model, rows, lazy_data=True).train
    read = []
    real = files.parse_line
    monkeypatch.setattr(
        "gossamer.training.data.lazy.parse_line", lambda n, line: read.append(n) or real(n, line)
    )
    assert lazy[9] == lazy[9]
    # The blank lines count as lines.
    assert read == [12, 12]
    assert len(lazy.places) == 25


def large(path, count=2000, size=8192):
    """Rows of `size` letters each, unlike one another, and how many bytes their texts have."""
    with path.open("w") as file:
        for number in range(count):
            row = {"prompt": "ok", "completion": f"{number} " * (size // 5)}
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def test_a_file_of_any_size_takes_the_memory_of_a_few_rows(tiny_model, tmp_path):
    path = tmp_path / "rows.jsonl"
    size = large(path)
    tokenizer = load_tokenizer(tiny_model)
    settings = DataSettings(data=str(path), lazy_data=True, max_length=64)
    # What is loaded or compiled at first use is not counted.
    load_data(settings.model_copy(update={"max_rows": 2}), tokenizer, seed=3)
    tracemalloc.start()
    try:
        rows = load_data(settings, tokenizer, seed=3).train
        assert len(rows) == 2000
        held, loading = tracemalloc.get_traced_memory()
        for number in range(0, 2000, 50):
            assert len(rows[number].input_ids) == 64
        used, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 13 * MIB
    # Three numbers of eight bytes a row, and a little besides.
    assert held < MIB / 4
    assert used < MIB / 4
    assert max(loading, peak) < 2 * MIB


def test_a_parquet_file_is_mapped_not_read(tiny_model, tmp_path, monkeypatch):
    import pyarrow

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = tmp_path / "rows.jsonl"
    size = large(rows)
    path = parquet(rows)
    before = pyarrow.total_allocated_bytes()
    lazy = load(tiny_model, path, lazy_data=True, max_length=64).train
    assert [len(lazy[number].input_ids) for number in (0, 999, 1999)] == [64] * 3
    assert size > 13 * MIB
    assert pyarrow.total_allocated_bytes() - before < MIB


def test_bad_rows_are_told_at_the_start(tiny_model, rows):
    with rows.open("a", encoding="utf-8") as file:
        file.write('\n{"prompt": "x"}\nnonsense\n')
    with pytest.raises(DataError, match="line 28: 'completion' is missing"):
        load(tiny_model, rows, lazy_data=True)
    data = load(tiny_model, rows, lazy_data=True, skip_bad_rows=True)
    assert (len(data.train), data.report.bad_rows, data.report.rows_read) == (25, 2, 27)


def test_a_row_without_anything_to_learn_keeps_its_place(tiny_model, tmp_path):
    path = tmp_path / "rows.jsonl"
    pairs = [{"prompt": "a" * size, "completion": "b"} for size in (1, 200, 2)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    data = load(tiny_model, path, lazy_data=True, max_length=80)
    assert [row.trained_tokens > 0 for row in data.train] == [True, False, True]


def answers_to(path, sizes):
    """Rows with prompts of so many letters; 80 tokens have no room for an answer to 200."""
    rows = [{"prompt": "a" * size, "completion": "b"} for size in sizes]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_pair_of_which_one_answer_is_cut_off_counts_in_no_loss(tiny_model, tmp_path):
    def answer(size):
        """The last turn is learnt, after another one of so many letters."""
        turns = (("user", "a"), ("assistant", "b" * size), ("user", "a"), ("assistant", "c"))
        return [{"role": role, "content": content} for role, content in turns]

    sizes = ((1, 2), (200, 1), (1, 200), (200, 201))
    rows = [{"chosen": answer(one), "rejected": answer(other)} for one, other in sizes]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = load(tiny_model, path, lazy_data=True, max_length=150, train_on="last").train
    learnt = [[side.trained_tokens > 0 for side in pair.sides] for pair in pairs]
    assert learnt == [[True, True], [False, False], [False, False], [False, False]]


def test_held_out_rows_without_anything_to_learn_are_left_out_and_counted(tiny_model, tmp_path):
    path = answers_to(tmp_path / "rows.jsonl", [1, 200] * 8)
    data = load(tiny_model, path, lazy_data=True, max_length=80, eval_split=6)
    assert all(row.trained_tokens for row in data.eval)
    assert 0 < len(data.eval) < 6
    assert data.report.dropped == 6 - len(data.eval)
    assert data.report.rows_used == len(data.train) + len(data.eval)
    told = f"{data.report.dropped} rows left out: nothing to learn"
    assert any(line.startswith(told) for line in data.report.lines())


@pytest.mark.parametrize("settings", [{}, {"eval_split": 2}])
def test_rows_of_which_none_can_be_learnt_from_are_refused(tiny_model, tmp_path, settings):
    path = answers_to(tmp_path / "rows.jsonl", [200] * 6)
    for lazy in (False, True):
        with pytest.raises(DataError, match="no row has a token to learn within max_length=80"):
            load(tiny_model, path, lazy_data=lazy, max_length=80, **settings)


def test_it_is_enough_that_the_last_row_can_be_learnt_from(tiny_model, tmp_path):
    path = answers_to(tmp_path / "rows.jsonl", [200] * 6 + [1])
    data = load(tiny_model, path, lazy_data=True, max_length=80)
    assert (len(data.train), data.report.dropped) == (7, 0)


def test_a_run_whose_held_out_rows_are_partly_too_long_takes_samples(tiny_model, tmp_path):
    path = answers_to(tmp_path / "rows.jsonl", [1, 200, 2] * 4)
    settings = {**TINY, "lazy_data": True, "max_length": 80, "eval_split": 6, "samples": 6}
    result = quiet_tune(tiny_model, path, tmp_path / "run", max_steps=1, **settings)
    assert result.eval_loss > 0
    assert 0 < len(read_samples(result.output)["prompts"]) < 6


def test_a_step_without_a_token_to_learn_ends_no_run_but_nothing_else_is_no_run(
    tiny_model, tmp_path
):
    settings = {"lazy_data": True, "max_length": 80, "batch_size": 1, "rank": 4}
    one = answers_to(tmp_path / "one.jsonl", [200, 1])
    result = quiet_tune(tiny_model, one, tmp_path / "run", max_steps=2, **settings)
    assert sorted(loss > 0 for loss in result.losses) == [False, True]
    few = answers_to(tmp_path / "few.jsonl", [1] + [200] * 40)
    with pytest.raises(DataError, match="none of the rows of the run's 2 steps has a token"):
        quiet_tune(tiny_model, few, tmp_path / "none", max_steps=2, **settings)


def test_an_evaluation_of_nothing_is_refused(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("gossamer.training.data.load.is_learnt_from", lambda sides: True)
    path = answers_to(tmp_path / "rows.jsonl", [200] * 6)
    settings = {"lazy_data": True, "max_length": 80, "eval_split": 2, "max_steps": 1}
    with pytest.raises(DataError, match="no held-out row has a token to learn"):
        quiet_tune(tiny_model, path, tmp_path / "run", **settings)


def test_what_cannot_be_read_lazily_is_refused(tiny_model, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\na,b\n")
    with pytest.raises(DataError, match=r"lazy_data reads \.jsonl and \.parquet files"):
        load(tiny_model, path, lazy_data=True)


def test_a_file_that_goes_away_is_told(rows):
    store = JsonLines("mine", rows, None)
    rows.unlink()
    with pytest.raises(DataError, match="'mine' cannot be read: No such file"):
        store.raw(0)


class Interrupt(Listener):
    def step(self, record):
        if record["step"] == 5:
            raise RuntimeError("stopped here")


def test_a_run_is_the_same_and_resumes_exactly(tiny_model, rows, tmp_path):
    # More than one pass, so that the order begins anew.
    settings = {**TINY, "max_steps": 8, "save_every": 3, "eval_split": 3}
    whole = quiet_tune(tiny_model, rows, tmp_path / "whole", **settings)
    lazy = quiet_tune(tiny_model, rows, tmp_path / "lazy", lazy_data=True, **settings)
    assert lazy.losses == whole.losses
    assert lazy.eval_loss == whole.eval_loss
    settings |= {"lazy_data": True, "listener": Interrupt()}
    with pytest.raises(RuntimeError, match="stopped here"):
        quiet_tune(tiny_model, rows, tmp_path / "parts", **settings)
    assert quiet_tune(output=tmp_path / "parts", resume=True).losses == whole.losses


def test_a_dry_run_counts_by_the_first_rows(tiny_model, rows, tmp_path):
    values = {"model": str(tiny_model), "data": str(rows), "output": str(tmp_path / "run")}
    whole = dry_run(RunSettings(**values))
    lazy = dry_run(RunSettings(**values, lazy_data=True))
    assert lazy.train_tokens == whole.train_tokens
    assert lazy.memory == whole.memory


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"packing": True}, "packing cannot go with lazy_data"),
        # An older TRL, which has no pairs at all, is told of first.
        ({"objective": "dpo"}, r"lazy_data|needs TRL 1\.16"),
    ],
)
def test_what_needs_all_rows_is_refused(settings, reason, tiny_model, rows, tmp_path):
    with pytest.raises(SettingError, match=reason):
        quiet_tune(tiny_model, rows, tmp_path / "run", lazy_data=True, **settings)
