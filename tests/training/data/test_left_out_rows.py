"""Rows that repeat others or are held out are left out if that is asked for, and told of."""

import json

import pytest

from gossamer.errors import DataError, SettingError
from gossamer.training.data import DataSettings, load_data
from gossamer.training.data.check import check_row
from gossamer.training.data.prints import folded, row_print

ROWS = [
    {"prompt": "Where are you?", "completion": "Here."},
    {"prompt": "Who are you?", "completion": "Me."},
    {"prompt": "Where are you?", "completion": "Here."},
    {"prompt": "where   ARE you", "completion": "here!"},
    {"prompt": "Who are you?", "completion": "Somebody else."},
    {"prompt": "What is it?", "completion": "A thing.", "source": "x"},
]
HELD_OUT = [{"prompt": "WHAT IS IT", "completion": "Nothing."}]


@pytest.fixture
def load(tmp_path, tokenizer):
    def load(**settings):
        for name, rows in (("rows", ROWS), ("held", HELD_OUT)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / f"{name}.jsonl").write_text(text)
        if settings.pop("held_out", False):
            settings["eval_data"] = str(tmp_path / "held.jsonl")
        wanted = DataSettings(data=str(tmp_path / "rows.jsonl"), **settings)
        return load_data(wanted, tokenizer, seed=0)

    return load


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("kinds", "numbers"),
    [
        ([], {}),
        (["duplicates"], {"duplicates": (3,)}),
        (["near-duplicates"], {"near-duplicates": (3, 4)}),
        ("duplicates, near-duplicates", {"duplicates": (3,), "near-duplicates": (4,)}),
        (["held-out"], {"held-out": (6,)}),
    ],
)
def test_the_first_of_its_like_is_learnt_and_the_others_are_named(load, kinds, numbers, lazy):
    found = load(leave_out=kinds, lazy_data=lazy, held_out=True)
    left_out = {number for each in numbers.values() for number in each}
    plain = load(held_out=True).train
    wanted = [row for number, row in enumerate(plain, start=1) if number not in left_out]
    assert list(found.train) == wanted
    assert found.report.left_out == numbers
    assert (found.report.rows_read, found.report.rows_used) == (6, len(wanted))
    for kind, each in numbers.items():
        assert f"{len(each)} {kind} left out: {', '.join(map(str, each))}" in found.report.lines()


def test_held_out_rows_must_be_of_a_file_and_something_must_be_left(load, tmp_path):
    with pytest.raises(SettingError, match="needs eval_data"):
        DataSettings.parse({"data": "x.jsonl", "leave_out": ["held-out"]}, where="run")
    same = str(tmp_path / "rows.jsonl")
    load()
    with pytest.raises(DataError, match="no row to learn from besides those of leave_out=held-out"):
        load(eval_data=same, leave_out=["held-out"])


def test_a_record_has_the_numbers_in_short(load):
    report = load(leave_out=["near-duplicates"]).report
    assert report.left_out_rows() == {"near-duplicates": "3-4"}


def test_who_speaks_and_what_is_learnt_tell_rows_apart():
    def prints(*messages):
        return row_print(check_row({"messages": list(messages)}, "messages"))

    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    system = {"role": "system", "content": "Be brief."}
    plain = prints(user, answer)
    assert prints(system, user, answer).whole != plain.whole
    assert prints(system, user, answer).prompt == plain.prompt
    assert prints(user, {**answer, "weight": 0}, user, answer).rough != (
        prints(user, answer, user, answer).rough
    )
    assert row_print(check_row({"prompt": "a", "completion": "b"}, "prompt-completion")) == plain
    assert folded("¿Qué?") == folded("qué")
    assert folded(" ?! ") == "?!"
