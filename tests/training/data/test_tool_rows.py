"""Rows with tools: written as transformers writes them, and learnt where the assistant calls."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from gossamer.errors import DataError
from gossamer.serving.tokenization.prompts import PromptEncoder

from tiny import tiny_tokenizer

# TRL ships the templates of many models; read as files, so that TRL is not imported.
TEMPLATES = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ARGUMENTS = {"city": "Paris"}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
TURNS = [
    {"role": "user", "content": "How is Paris?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "Sunny"},
    {"role": "assistant", "content": "It is sunny."},
]
ROW = {"messages": TURNS, "tools": [TOOL]}
CALLED = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
# What is learnt of the row, by template; None: one that knows no tools.
LEARNT = {
    "qwen2_5": [
        f"<tool_call>\n{CALLED}\n</tool_call><|im_end|>",
        "It is sunny.<|im_end|>",
    ],
    # Writes the thoughts of the last turn alone, so a call without and with its result differ.
    "qwen3": [
        f"<tool_call>\n{CALLED}\n</tool_call><|im_end|>",
        "<think>\n\n</think>\n\nIt is sunny.<|im_end|>",
    ],
    None: [
        f"<tool_call>\n{CALLED}\n</tool_call><|im_end|>",
        "It is sunny.<|im_end|>",
    ],
}


def with_template(name):
    tokenizer = tiny_tokenizer()
    if name is not None:
        tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return tokenizer


@pytest.mark.parametrize("name", LEARNT)
def test_calls_and_answers_are_learnt_and_nothing_else(name, write, load, trained):
    tokenizer = with_template(name)
    [example] = load(write([ROW]), tokenizer=tokenizer).train
    assert trained(tokenizer, example) == LEARNT[name]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_rows_are_written_as_transformers_writes_them(name, write, load):
    tokenizer = with_template(name)
    [example] = load(write([ROW]), tokenizer=tokenizer).train
    expected = tokenizer.apply_chat_template(TURNS, tools=[TOOL], return_dict=False)
    written = tokenizer.decode(expected).rstrip("\n")
    assert tokenizer.decode(example.input_ids) == written
    assert example.input_ids == expected[: len(example.input_ids)]


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", None])
def test_what_comes_before_a_call_is_what_the_server_is_asked(name, write, load):
    tokenizer = with_template(name)
    row = {"messages": TURNS[:2], "tools": [TOOL]}
    [example] = load(write([row]), tokenizer=tokenizer).train
    asked = PromptEncoder(tokenizer, "prompts").chat(
        TURNS[:1], tools=[TOOL], add_generation_prompt=True
    )
    assert tuple(example.input_ids[: len(asked)]) == asked
    assert set(example.labels[: len(asked)]) == {-100}
    assert -100 not in example.labels[len(asked) :]


def test_texts_of_json_stand_for_the_objects(write, load):
    call = {
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    turns = [TURNS[0], {"role": "assistant", "tool_calls": [call]}, *TURNS[2:]]
    text = {"messages": json.dumps(turns), "tools": json.dumps([TOOL])}
    [one, other] = load(write([ROW, text])).train
    assert one == other


def test_pairs_and_preferences_have_tools_too(write, load, tokenizer):
    pair = {"prompt": TURNS[:1], "completion": TURNS[1:], "tools": [TOOL]}
    [example] = load(write([pair])).train
    assert example == load(write([ROW])).train[0]
    better = {"prompt": TURNS[:1], "chosen": TURNS[1:2], "rejected": TURNS[3:], "tools": [TOOL]}
    [sides] = load(write([better])).train
    assert "get_weather" in tokenizer.decode(sides.rejected.input_ids)


def test_rows_that_differ_in_their_calls_alone_are_no_duplicates(write, load):
    other = json.loads(json.dumps(ROW))
    other["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"city": "Rome"}
    found = load(write([ROW, other, ROW]), leave_out=["duplicates"])
    assert len(found.train) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tools": 5}, "'tools' must be a list of functions, got int 5"),
        ({"tools": "{"}, "'tools' is text that is not JSON"),
        ({"tools": [{"type": "function"}]}, r"tools\[0\] must be a function with a 'name'"),
        ({"messages": [{**TURNS[0], "tool_calls": [CALL]}, TURNS[3]]}, "only the assistant makes"),
        ({"messages": [TURNS[0], {"role": "assistant", "tool_calls": 5}]}, "calls, got int 5"),
        (
            {"messages": [TURNS[0], {"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": "[1]"}}]}]},
            "arguments must be an object, or its JSON in a string, got list",
        ),
    ],
)  # fmt: skip
def test_malformed_tools_are_refused_by_their_place(change, message, write, load):
    with pytest.raises(DataError, match=rf"line 2: .*{message}"):
        load(write([ROW, {**ROW, **change}]))
