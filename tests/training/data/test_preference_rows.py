"""Pairs of answers: read in TRL's forms, each side whole and labelled, or refused with a reason."""

import json

import pytest

from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import DataError
from gossamer.training.data import DataSettings, load_data

USER = {"role": "user", "content": "Hi?"}
GOOD = {"role": "assistant", "content": "Hello."}
BAD = {"role": "assistant", "content": "What."}
MORE = {"role": "user", "content": "And?"}
TEXTS = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "What."}
CONVERSATIONS = [
    {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    # As in data sets that repeat the prompt as a text.
    {"prompt": "Hi?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
]


@pytest.fixture
def load(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)

    def read(*rows, **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = load_data(DataSettings(data=str(path), **settings), tokenizer, seed=0)
        return data, tokenizer

    return read


def parts(tokenizer, example):
    """(context, what is learnt) as text."""
    learnt = [t for t, label in zip(example.input_ids, example.labels, strict=True) if label >= 0]
    context = example.input_ids[: len(example.input_ids) - len(learnt)]
    return tokenizer.decode(context), tokenizer.decode(learnt)


@pytest.mark.parametrize("row", [TEXTS, *CONVERSATIONS])
def test_all_forms_say_the_same(load, row):
    data, tokenizer = load(row)
    [pair] = data.train
    assert data.report.format == "preference"
    context = "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    assert parts(tokenizer, pair.chosen) == (context, "Hello.<|im_end|>")
    assert parts(tokenizer, pair.rejected) == (context, "What.<|im_end|>")
    assert data.report.tokens == sum(len(side.input_ids) for side in pair.sides)
    assert ">>>Hello.<|im_end|><<<" in data.preview(tokenizer)


def test_without_a_template(load):
    data, tokenizer = load({**TEXTS, "prompt": "Hi? "}, chat_template=False)
    assert parts(tokenizer, data.train[0].rejected) == ("Hi? ", "What.<|im_end|>")


def test_only_what_differs_is_an_answer(load):
    """Earlier assistant turns are context; later turns of users are, too."""
    row = {"chosen": [USER, GOOD, MORE, GOOD], "rejected": [USER, GOOD, MORE, BAD, USER, BAD]}
    data, tokenizer = load(row)
    pair = data.train[0]
    assert parts(tokenizer, pair.chosen)[1] == "Hello.<|im_end|>"
    rejected = pair.rejected
    learnt = [t for t, k in zip(rejected.input_ids, rejected.labels, strict=True) if k >= 0]
    assert tokenizer.decode(learnt) == "What.<|im_end|>What.<|im_end|>"


def test_a_pair_is_cut_or_left_out_as_one(load):
    long = {**TEXTS, "rejected": "What." * 30}
    data, _ = load(TEXTS, long, {**TEXTS, "prompt": "Hi?" * 40}, max_length=80)
    assert len(data.train) == 2
    assert (data.report.truncated, data.report.dropped) == (1, 1)
    assert len(data.train[1].rejected.input_ids) == 80


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "a", "rejected": "b"}, "'prompt' is missing; answers that are strings"),
        ({**TEXTS, "rejected": "Hello."}, "'chosen' and 'rejected' are the same"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "are the same"),
        ({**TEXTS, "rejected": [BAD]}, "must both be strings or both lists"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "nothing comes before the two answers"),
        ({"chosen": [USER, GOOD], "rejected": [MORE, BAD]}, "goes on with a user turn where both"),
        ({"chosen": [USER, GOOD], "rejected": [USER]}, "'rejected' has no assistant turn"),
        ({**TEXTS, "chosen": " "}, "'chosen' is empty"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(load, row, reason):
    with pytest.raises(DataError, match=f"line 1: .*{reason}"):
        load(row)
