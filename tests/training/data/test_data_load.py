"""Cutting, held-out rows, counts and settings."""

import pytest

from gossamer.errors import DataError, SettingError
from gossamer.training.data import DataSettings


def numbered(count):
    return [{"prompt": f"number {i}?", "completion": f"it is {i}"} for i in range(count)]


def test_long_rows_are_cut_and_counted(write, load, tokenizer):
    rows = [
        {"prompt": "p", "completion": "short"},
        {"prompt": "p", "completion": "long " * 50},
        {"prompt": "very " * 100, "completion": "never seen"},
    ]
    whole = load(write(rows))
    data = load(write(rows), max_length=80)
    report = data.report
    assert (report.rows_used, report.truncated, report.dropped) == (2, 1, 1)
    assert report.longest == max(len(example.input_ids) for example in whole.train)
    assert data.train[0] == whole.train[0]
    assert data.train[1].input_ids == whole.train[1].input_ids[:80]
    assert data.train[1].labels == whole.train[1].labels[:80]
    said = "\n".join(report.lines())
    assert "1 rows cut to max_length=80" in said
    assert "1 rows left out" in said


def test_row_of_exactly_the_maximum_is_not_cut(write, load):
    path = write(numbered(1))
    length = load(path).report.longest
    assert load(path, max_length=length).report.truncated == 0
    assert load(path, max_length=length - 1).report.truncated == 1


def test_nothing_left_to_learn(write, load):
    with pytest.raises(
        DataError, match=r"no row has a token to learn within max_length=8; the lon"
    ):
        load(write(numbered(3)), max_length=8)


def test_counts(write, load):
    data = load(write(numbered(7)), eval_split=2)
    everything = [*data.train, *data.eval]
    assert data.report.rows_read == data.report.rows_used == len(everything) == 7
    assert data.report.tokens == sum(len(example.input_ids) for example in everything)
    assert data.report.trained_tokens == sum(
        label != -100 for example in everything for label in example.labels
    )


@pytest.mark.parametrize(
    ("eval_split", "count"), [(0, 0), (0.25, 10), (3, 3), (0.001, 1), (39, 39)]
)
def test_held_out_rows(eval_split, count, write, load):
    path = write(numbered(40))
    data = load(path, eval_split=eval_split)
    everything = load(path).train
    assert len(data.eval) == count
    ids = [tuple(e.input_ids) for e in data.train + data.eval]
    assert sorted(ids) == sorted(tuple(e.input_ids) for e in everything)
    # Both keep the order of the file.
    places = {tuple(e.input_ids): place for place, e in enumerate(everything)}
    for part in (data.train, data.eval):
        order = [places[tuple(e.input_ids)] for e in part]
        assert order == sorted(order)


def test_split_depends_on_the_seed_alone(write, load):
    path = write(numbered(40))
    first = load(path, eval_split=10, seed=1)
    assert load(path, eval_split=10, seed=1) == first
    assert load(path, eval_split=10, seed=2).eval != first.eval


def test_split_larger_than_the_data(write, load):
    with pytest.raises(DataError, match=r"has 4 usable rows; eval_split=4 would leave none"):
        load(write(numbered(4)), eval_split=4)
    with pytest.raises(DataError, match=r"eval_split=0\.5 would leave none"):
        load(write(numbered(1)), eval_split=0.5)


def test_eval_file(write, load):
    train = write(numbered(5), "train.jsonl")
    held_out = write([{"text": "something else"}], "eval.jsonl")
    data = load(train, eval_data=held_out, max_rows=3)
    assert (len(data.train), len(data.eval)) == (3, 1)
    assert data.eval_report.format == "text"
    assert data.eval_report.source == held_out
    with pytest.raises(DataError, match=r"'.*nothing\.jsonl' does not exist"):
        load(train, eval_data=held_out.replace("eval", "nothing"))


def test_max_rows_reads_no_further(write, load):
    path = write("\n".join(['{"text": "a b"}', '{"text": "c d"}', "{broken"]))
    data = load(path, max_rows=2)
    assert data.report.rows_read == len(data.train) == 2


WRONG = {
    "eval_split": (-1, 1.5, True, "half", float("nan"), float("inf"), None),
    "max_length": (0, 1, -5, "long"),
    "max_rows": (0, -1),
    "train_on": ("prompt",),
    "data_format": ("chatml",),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in WRONG.items() for v in vs])
def test_impossible_settings(key, value):
    with pytest.raises(SettingError, match=f"setting '{key}' = "):
        DataSettings.parse({"data": "x.jsonl", key: value})


def test_two_sources_of_eval_rows():
    with pytest.raises(SettingError, match="either eval_data or eval_split"):
        DataSettings.parse({"data": "x.jsonl", "eval_data": "y.jsonl", "eval_split": 3})


def test_settings_survive_being_written_down():
    for eval_split in (0, 5, 0.1):
        settings = DataSettings(data="x.jsonl", eval_split=eval_split)
        assert DataSettings.parse(settings.model_dump(mode="json")) == settings
