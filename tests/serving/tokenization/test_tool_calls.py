"""Calls in the text of answers: what each family writes, whole and however it is cut."""

import json
import random

import pytest

from gossamer.serving.tokenization.tool_calls.families import FAMILIES, CallParser
from gossamer.serving.tokenization.tool_calls.forced import ForcedReader
from gossamer.serving.tokenization.tool_calls.marked import MarkedReader
from gossamer.serving.tokenization.tool_calls.parts import (
    CallArguments,
    CallStart,
    ReasoningPart,
    TextPart,
    join_parts,
)

from tiny import tiny_tokenizer

NAMES = frozenset({"get_weather", "add"})
CITY = '{"city": "Paris"}'
SUM = '{"a": 1, "b": [2, {"c": "}\\"]"}]}'
QWEN = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*"},
    },
}
"""A description of answers as tokenizers of transformers bring it."""


def call(name, arguments):
    return [CallStart(name), CallArguments(arguments)]


def tagged(name, arguments, key="arguments"):
    return f'<tool_call>\n{{"name": "{name}", "{key}": {arguments}}}\n</tool_call>'


def bare(name, arguments, key="parameters"):
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def xml(name, **arguments):
    inside = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


WEATHER, ADD = call("get_weather", CITY), call("add", SUM)
# (family, text of the answer, its parts)
WRITTEN = [
    ("hermes", tagged("get_weather", CITY), WEATHER),
    ("hermes", tagged("add", SUM, "parameters") + tagged("get_weather", CITY), ADD + WEATHER),
    ("hermes", "Let me look.\n\n" + tagged("add", SUM), [TextPart("Let me look."), *ADD]),
    ("hermes", tagged("add", SUM) + "\n Done.", [*ADD, TextPart("Done.")]),
    ("hermes", tagged("get_weather", CITY).removesuffix("\n</tool_call>"), WEATHER),
    ("hermes", tagged("get_weather", CITY).removesuffix("call>"), WEATHER),
    ("hermes", tagged("get_weather", json.dumps(CITY)), WEATHER),
    ("hermes", '<tool_call>{"name": "add"}</tool_call>', call("add", "{}")),
    (
        "hermes",
        tagged("get_weather", '{"city": "</tool_call> <tool_call>"}'),
        call("get_weather", '{"city": "</tool_call> <tool_call>"}'),
    ),
    ("llama3", bare("get_weather", CITY), WEATHER),
    ("llama3", "<|python_tag|>" + bare("get_weather", CITY), WEATHER),
    ("llama3", f" {bare('get_weather', CITY)}; {bare('add', SUM, 'arguments')}", WEATHER + ADD),
    ("llama3", "See: <|python_tag|>" + bare("add", SUM), [TextPart("See:"), *ADD]),
    ("mistral", f"[TOOL_CALLS] [{bare('get_weather', CITY)}, {bare('add', SUM)}]", WEATHER + ADD),
    ("mistral", f"[TOOL_CALLS]get_weather[ARGS]{CITY}[TOOL_CALLS]add{SUM}", WEATHER + ADD),
    ("mistral", f"Hm. [TOOL_CALLS]add[CALL_ID]a1b2c3[ARGS]{SUM}", [TextPart("Hm."), *ADD]),
    ("generic", tagged("add", SUM), ADD),
    ("generic", bare("get_weather", CITY, "arguments"), WEATHER),
    ("generic", f"[TOOL_CALLS]get_weather{CITY}", WEATHER),
    ("qwen3-coder", "Look.\n" + xml("get_weather", city="Paris\n<b>"),
     [TextPart("Look.\n"), *call("get_weather", '{"city": "Paris\\n<b>"}')]),
    ("qwen3-coder", xml("add", a="7") + xml("add"), call("add", '{"a": 7}') + call("add", "{}")),
    ("template", "<think>Hm.\n</think>\n\n" + tagged("get_weather", CITY),
     [ReasoningPart("Hm.\n"), *WEATHER]),
    ("template", tagged("add", SUM) + "\n" + tagged("get_weather", CITY), ADD + WEATHER),
    ("template", "So be it.", [TextPart("So be it.")]),
]  # fmt: skip
# (family, text): no call, so all of it is content
CONTENT = [
    ("hermes", "Just a text with < and <tool and {} in it. \n"),
    ("hermes", tagged("unknown", CITY)),
    ("hermes", tagged("get_weather", "[1]")),
    ("hermes", tagged("get_weather", '{"city": NaN}')),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}\n</tool_call> more'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": "1}'),
    ("hermes", "<tool_call> none </tool_call>"),
    ("hermes", "It ends in <tool_ca"),
    ("hermes", "<tool_call>" + "[" * 3000 + "]" * 3000),
    ("hermes", bare("get_weather", CITY)),
    ("llama3", '{"name": "get_weather"}'),
    ("llama3", '{"answer": 42} is it'),
    ("llama3", 'Now {"name": "get_weather", "parameters": {}}'),
    ("llama3", '{"name": "get_weather", "parameters": {'),
    ("mistral", "[TOOL_CALLS]hello world"),
    ("mistral", f"[TOOL_CALLS]unknown[ARGS]{CITY}"),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS][1]"),
    ("mistral", f"[TOOL_CALLS][{bare('get_weather', CITY)}, 3]"),
    ("generic", "An answer.\n\nWith lines. "),
    ("qwen3-coder", xml("unknown", city="Paris")),
    ("qwen3-coder", xml("add", a="7").removesuffix("</tool_call>")),
    ("qwen3-coder", "<tool_call>\n<function=add>\n<parameter=a>\n7"),
    ("template", tagged("unknown", CITY)),
    ("template", "<tool_call>none</tool_call>"),
    ("template", '<tool_call>{"name": "add", "arguments": {"a": "1}'),
]


@pytest.fixture(scope="module")
def described():
    """A tokenizer that describes how answers are read."""
    tokenizer = tiny_tokenizer()
    tokenizer.response_template = QWEN
    return tokenizer


@pytest.fixture
def reader_of(described):
    def reader_of(family):
        if family == "qwen3-coder":
            schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
            tools = [{"type": "function", "function": {"name": "add", "parameters": schema}}]
            return CallParser(described, family).readers(tools, NAMES, [])()
        if family != "template":
            return MarkedReader(FAMILIES[family].syntaxes, NAMES)
        prompt = described.encode("<|im_start|>assistant\n")
        return CallParser(described).readers([], NAMES, prompt)()

    return reader_of


def read(reader, pieces):
    parts = [part for piece in pieces for part in reader.push(piece)]
    return join_parts(parts + reader.finish())


def cuts(text, seed):
    """`text` in random pieces, some of one character, some of many."""
    draw = random.Random(seed)
    place = 0
    while place < len(text):
        length = draw.choice((1, 1, 2, 3, 7, 50))
        yield text[place : place + length]
        place += length


@pytest.mark.parametrize(("family", "text", "parts"), WRITTEN)
def test_calls_are_read_as_each_family_writes_them(reader_of, family, text, parts):
    assert read(reader_of(family), [text]) == parts


@pytest.mark.parametrize(("family", "text"), CONTENT)
def test_what_is_no_call_is_content_to_the_letter(reader_of, family, text):
    assert read(reader_of(family), [text]) == [TextPart(text)]


@pytest.mark.parametrize(
    ("family", "text"), [(family, text) for family, text, *_ in [*WRITTEN, *CONTENT]]
)
def test_answers_cut_anywhere_are_read_as_whole_ones(reader_of, family, text):
    whole = read(reader_of(family), [text])
    for seed in range(6):
        assert read(reader_of(family), cuts(text, seed)) == whole


def test_random_mixtures_of_marks_and_texts_lose_nothing_and_equal_whole_ones(reader_of):
    marks = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "; ", "\n"]
    words = [*marks, "{", "}", "[", '"', "\\", "add", "<", bare("add", SUM), tagged("add", SUM)]
    draw = random.Random(7)
    for seed in range(300):
        text = "".join(draw.choices([*words, "a word "], k=draw.randrange(1, 9)))
        for family in ("hermes", "llama3", "mistral", "generic"):
            whole = read(reader_of(family), [text])
            assert read(reader_of(family), cuts(text, seed)) == whole
            if not any(isinstance(part, CallStart) for part in whole):
                assert "".join(part.text for part in whole) == text


def test_a_thought_that_the_prompt_has_opened_is_none_of_the_content(described):
    prompt = described.encode("<|im_start|>assistant\n<think>\n")
    reader = CallParser(described).readers([], NAMES, prompt)()
    assert read(reader, ["Hm.</think>\nYes."]) == [ReasoningPart("Hm."), TextPart("Yes.")]


def test_arguments_of_a_call_that_has_to_be_made_come_as_they_are_written():
    reader = ForcedReader(NAMES)
    assert reader.push('{"name": "get_wea') == []
    assert reader.push('ther", "arguments": {"ci') == call("get_weather", '{"ci')
    assert reader.push('ty": "Paris}"}') == [CallArguments('ty": "Paris}"}')]
    assert reader.push("}\n") == reader.finish() == []


def test_a_call_that_has_to_be_made_may_be_written_in_any_order():
    text = f'{{"arguments": {CITY}, "name": "get_weather"}}'
    assert read(ForcedReader(NAMES), list(text)) == WEATHER


def test_template_without_a_word_of_tools_is_read_generically():
    parser = CallParser(tiny_tokenizer())
    assert parser.name == "generic"
    assert parser.kept_special_tokens == ()


def test_parser_named_template_needs_a_description():
    with pytest.raises(ValueError, match="response_template"):
        CallParser(tiny_tokenizer(), "template")
