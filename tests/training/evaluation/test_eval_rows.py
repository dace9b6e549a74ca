"""Held-out rows: what is asked, what is scored, and which score fits."""

import json

import pytest

from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import DataError
from gossamer.training.data import DataSettings
from gossamer.training.evaluation import EvaluationSettings, load_eval_set


@pytest.fixture
def load(tiny_model, tmp_path):
    def load(rows, *, data=None, **settings):
        path = tmp_path / "eval.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tokenizer = load_tokenizer(tiny_model)
        options = DataSettings.parse({"data": "unused", **(data or {})})
        return load_eval_set(str(path), EvaluationSettings(**settings), options, tokenizer)

    return load


def rows(*answers, **more):
    return [
        {"prompt": f"question {i}", "completion": f"It is {a}.", "answer": a, **more}
        for i, a in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("held_out", "score"),
    [
        (rows("1", "2.5", "-3"), "last-number"),
        (rows(1, 2, 3), "last-number"),
        (rows("answer1", "answer2", "answer1", "answer2"), "choice"),
        (rows("true", "false", "true", "true"), "choice"),
        (rows("Paris", "London", "Rome"), "exact"),
        (rows("a", "b", options=["a", "b"]), "choice"),
        ([{"prompt": "q", "completion": "no answer column"}], "loss"),
        ([{"text": "plain"}], "loss"),
    ],
)
def test_the_score_is_told_by_the_rows(load, held_out, score):
    assert load(held_out).score == score


def test_the_prompt_is_what_the_server_would_be_asked(load, tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    row = load(rows("12")).rows[0]
    asked = [{"role": "user", "content": "question 0"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(row.prompt) == text
    assert row.example.input_ids[: len(row.prompt)] == row.prompt


def test_train_on_all_does_not_change_what_is_asked_or_scored(load):
    one, other = load(rows("12")), load(rows("12"), data={"train_on": "all"})
    assert one.rows == other.rows


def test_an_answer_alone_is_what_the_model_should_say(load, tiny_model):
    row = load([{"prompt": "question", "answer": 12}]).rows[0]
    learnt = [token for token in row.example.labels if token != -100]
    assert load_tokenizer(tiny_model).decode(learnt) == "12<|im_end|>"


def test_a_conversation_is_asked_up_to_its_last_answer(load, tiny_model):
    turns = ["hello", "hi", "and now?", "now this"]
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)
    ]
    row = load([{"messages": messages, "answer": "now this"}]).rows[0]
    asked = load_tokenizer(tiny_model).decode(row.prompt)
    assert "and now?" in asked
    assert "now this" not in asked


def test_rows_are_drawn_from_the_whole_file_always_the_same(load):
    many = rows(*map(str, range(100)))
    one, other = load(many, eval_rows=10), load(many, eval_rows=10)
    answers = [int(row.answer) for row in one.rows]
    assert one.rows == other.rows
    assert len(answers) == 10
    assert answers == sorted(answers)
    assert answers[-1] > 50


@pytest.mark.parametrize(
    ("held_out", "settings", "message"),
    [
        ([], {}, "is empty"),
        (rows("Paris", "Rome"), {"score": "last-number"}, "line 1: the answer 'Paris' is not a nu"),
        (rows("c", options=["a", "b"]), {}, "line 1: the answer 'c' is none of the options a, b"),
        (rows("a", options=["a"]), {}, "line 1: 'options' must be a list of two or more"),
        ([{"text": "plain"}], {"score": "exact"}, "plain text, which has no replies"),
        (rows("1", None), {}, "line 2: 'answer' is null"),
        ([*rows("1"), {"prompt": 3, "completion": "x"}], {}, "line 2: 'prompt' must be a str"),
    ],
)
def test_unusable_rows_are_refused_with_their_line(load, held_out, settings, message):
    with pytest.raises(DataError, match="eval") as error:
        load(held_out, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
