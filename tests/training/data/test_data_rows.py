"""Columns and rows: the format found, and what is said of each malformed row."""

import pytest

from gossamer.errors import DataError

PAIR = {"prompt": "a?", "completion": "b"}
USER = {"role": "user", "content": "hi"}
REPLY = {"role": "assistant", "content": "hello"}

FORMATS = {
    "messages": {"messages": [USER, REPLY]},
    "prompt-completion": PAIR,
    "instruction": {"instruction": "a", "output": "b"},
    "text": {"text": "a b c"},
}


@pytest.mark.parametrize("fmt", FORMATS)
def test_format_is_told_by_the_columns(fmt, write, load):
    report = load(write([{**FORMATS[fmt], "source": "x", "answer": 4}])).report
    assert report.format == fmt
    assert report.ignored_columns == ("answer", "source")
    assert any("ignored columns: answer, source" in line for line in report.lines())


def test_optional_column_is_not_ignored(write, load):
    assert (
        load(write([{"instruction": "a", "input": "", "output": "b"}])).report.ignored_columns == ()
    )


UNFIT = {
    "typo": ({"promt": "a", "completion": "b"}, r"rename 'promt' to 'prompt'\?"),
    "case": ({"Prompt": "a", "Completion": "b"}, r"'Prompt' to 'prompt' and 'Completion' to 'com"),
    "words": ({"question": "a", "answer": "b"}, r"'question' to 'prompt' and 'answer' to 'comp"),
    "sharegpt": ({"conversations": []}, r"rename 'conversations' to 'messages'\?"),
    "unlike": ({"x": 1, "y": 2}, r"has the columns 'x', 'y'; needed: messages \(messages\); pro"),
    "none": ({}, r"has the columns \(none\); needed"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_columns(case, write, load):
    row, message = UNFIT[case]
    with pytest.raises(DataError, match=message):
        load(write([row]))


def test_several_formats_fit(write, load):
    path = write([{**FORMATS["instruction"], "text": "a b"}])
    with pytest.raises(DataError, match="data_format=instruction or data_format=text"):
        load(path)
    assert load(path, data_format="text").report.format == "text"
    with pytest.raises(
        DataError, match=r"needed: prompt \+ completion \(prompt-completion\)\. Did"
    ):
        load(path, data_format="prompt-completion")


BAD_ROWS = {
    "missing": ({"prompt": "a"}, r"'completion' is missing; the row has 'prompt'"),
    "typo": ({"promt": "a", "completion": "b"}, r"did you mean 'prompt' where it says 'promt'"),
    "number": ({**PAIR, "completion": 5}, r"'completion' must be a string, got int 5"),
    "null": ({**PAIR, "prompt": None}, r"'prompt' is null"),
    "empty": ({**PAIR, "completion": " \n"}, r"'completion' is empty"),
    "no-prompt": ({**PAIR, "prompt": ""}, r"'prompt' is empty; text without a prompt goes into"),
    "mixed": ({**PAIR, "prompt": [USER]}, r"must both be strings or both lists of messages"),
    "surrogate": ({**PAIR, "prompt": "a\ud800"}, r"'prompt' holds half of a surrogate pair"),
    "completion-user": (
        {"prompt": [USER], "completion": [USER, REPLY]},
        r"completion\[0\] must be an assistant turn, got 'user'",
    ),
}
BAD_TALKS = {
    "not-list": (5, r"'messages' must be a list of messages, got int 5"),
    "text": ("hi", r"must be a list of messages, got text that is not JSON"),
    "empty": ([], r"'messages' is an empty list"),
    "entry": ([USER, "x"], r"messages\[1\] must be an object, got str 'x'"),
    "role": ([USER, {**REPLY, "role": "bot"}], r"messages\[1\] has the unknown role 'bot'; known"),
    "key": ([{"role": "user"}], r"messages\[0\] has no 'content'"),
    "from": ([{"from": "human", "value": "x"}], r"no 'role'; it looks like from/value pairs"),
    "content": ([USER, {**REPLY, "content": None}], r"'messages\[1\]\.content' is null"),
    "parts": ([{**USER, "content": [{}]}], r"content' must be a string, got list"),
    "blank": ([USER, {**REPLY, "content": ""}], r"'messages\[1\]\.content' is empty"),
    "no-answer": ([USER], r"'messages' has no assistant turn"),
    "first": ([REPLY, USER, REPLY], r"messages\[0\] is an assistant turn; a user turn must come"),
    "calls": ([USER, {**REPLY, "tool_calls": [{"id": 1}]}], r"tool_calls\[0\] must be a call of"),
}
CASES = [
    *((PAIR, bad, message) for bad, message in BAD_ROWS.values()),
    *((FORMATS["messages"], {"messages": bad}, message) for bad, message in BAD_TALKS.values()),
]


@pytest.mark.parametrize(("good", "bad", "message"), CASES, ids=[*BAD_ROWS, *BAD_TALKS])
def test_malformed_row(good, bad, message, write, load):
    path = write([good, bad, good])
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: .*{message}") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    data = load(path, skip_bad_rows=True)
    assert len(data.train) == 2
    assert (data.report.rows_read, data.report.rows_used, data.report.bad_rows) == (3, 2, 1)
    assert "line 2: " in data.report.problems[0]


def test_skipped_rows_are_counted_and_the_first_few_named(write, load):
    lines = ['{"text": "fine"}', *["{broken"] * 3, *['{"text": 1}'] * 5]
    report = load(write("\n".join(lines)), skip_bad_rows=True).report
    assert report.bad_rows == 8
    assert len(report.problems) == 5
    assert report.lines()[-1].strip() == "and 3 more"


def test_only_bad_rows(write, load):
    with pytest.raises(DataError, match=r"no usable row; 2 are bad, the first: .*line 1: invalid"):
        load(write("{x\n{y\n"), skip_bad_rows=True)
    with pytest.raises(DataError, match=r"no usable row; 1 are bad, the first: .*'text' is empty"):
        load(write([{"text": ""}]), skip_bad_rows=True)
