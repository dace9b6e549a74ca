"""Tools beside a form: an answer is a call in the model's own marks, or has the form."""

import asyncio
import json

import httpx
import numpy as np
import pytest
from engine_case import start
from tokenizers import AddedToken

from gossamer.serving.core.messages import StructuredOutputs
from gossamer.serving.http.app import create_app
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.structured.grammars import Grammars
from gossamer.serving.tokenization.tool_calls.families import CallParser
from gossamer.serving.tokenization.tool_calls.forced import ForcedReader
from gossamer.serving.tokenization.tool_calls.parts import CallArguments, CallStart, join_parts

from tiny import tiny_tokenizer

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
FORM = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}
FUNCTION = {"name": "add", "parameters": {"type": "object"}}
TEMPLATE = "{% if tools %}<tool_call>{% endif %}{{ messages[-1]['content'] }}<|im_start|>"


def tokenizer_with(special):
    """The tiny one, with marks of calls among its added tokens."""
    tokenizer = tiny_tokenizer()
    marks = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")
    tokenizer.add_tokens([AddedToken(text, special=special) for text in marks])
    return tokenizer


TOKENIZERS = {
    "texts": tiny_tokenizer,
    "special": lambda: tokenizer_with(True),
    "added": lambda: tokenizer_with(False),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def vocabulary(request):
    tokenizer = TOKENIZERS[request.param]()
    grammars = Grammars(tokenizer, [tokenizer.eos_token_id], len(tokenizer))
    yield tokenizer, grammars
    grammars.close()


def admits(vocabulary, form, text):
    tokenizer, grammars = vocabulary
    matcher = grammars.matcher(form)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    for place, token in enumerate(tokens, 1):
        if not np.unpackbits(matcher.mask(), bitorder="little")[token]:
            return False
        if matcher.take(token):
            return place == len(tokens)
    return bool(np.unpackbits(matcher.mask(), bitorder="little")[tokenizer.eos_token_id])


TAG = '<tool_call>\n{"name": "add", "arguments": {"a": [1]}}\n</tool_call>'
BARE = '{"name": "add", "parameters": {}}'
LISTED = '{"name": "add", "arguments": {}}'
CALLS = [
    # family, one call, several
    ("hermes", TAG, f"{TAG}\n{TAG}"),
    ("generic", TAG, f"{TAG}\n{TAG}"),
    ("llama3", BARE, f"{BARE}; {BARE}"),
    ("mistral", f"[TOOL_CALLS] [{LISTED}]", f"[TOOL_CALLS][{LISTED}, {LISTED}]"),
    ("mistral", '[TOOL_CALLS]add[ARGS]{"a":1}', "[TOOL_CALLS]add{}[TOOL_CALLS]add[ARGS]{}"),
]


@pytest.mark.parametrize(("family", "one", "several"), CALLS)
def test_an_answer_is_calls_as_the_family_writes_them_or_has_the_form(
    vocabulary, family, one, several
):
    parser, names = CallParser(vocabulary[0], family), frozenset({"add", "stop"})
    for only_one in (True, False):
        frame = parser.calls_or_form(names, only_one=only_one)
        form = StructuredOutputs(json=FORM, frame=frame)
        assert admits(vocabulary, form, '{"n": 1}')
        assert admits(vocabulary, form, one)
        assert admits(vocabulary, form, several) != only_one
        for wrong in ("It is 3.", '{"n": 3}', one.replace("add", "sub"), one + ' {"n": 1}'):
            assert not admits(vocabulary, form, wrong), wrong
    reader = parser.readers([], names, [], is_kept=True)()
    parts = [part for piece in several for part in reader.push(piece)] + reader.finish()
    assert [type(part) for part in join_parts(parts)] == [CallStart, CallArguments] * 2


REQUIRED = [
    ("hermes", f"{LISTED}\n</tool_call>\n<tool_call>\n{LISTED}\n</tool_call>"),
    ("hermes", f"{LISTED}\n</tool_call>\n<tool_call>\n{LISTED}"),
    ("llama3", f"{LISTED}; {LISTED}"),
    ("mistral", f"[{LISTED}, {LISTED}]"),
]


@pytest.mark.parametrize(("family", "text"), REQUIRED)
def test_calls_that_have_to_be_made_may_be_several(vocabulary, family, text):
    frame = CallParser(vocabulary[0], family).required_calls()
    form = StructuredOutputs(json={"enum": [json.loads(LISTED)]}, frame=frame)
    assert admits(vocabulary, form, LISTED)
    assert admits(vocabulary, form, text)
    assert not admits(vocabulary, form, "")
    for pieces in ([text], list(text)):
        reader = ForcedReader(frozenset({"add"}))
        parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
        assert join_parts(parts) == [CallStart("add"), CallArguments("{}")] * 2


@pytest.fixture(scope="module")
def engine(tiny_model, tmp_path_factory):
    engine = start(tiny_model, tmp_path_factory.mktemp("adapters"), num_blocks=200)
    engine.tokenizer.chat_template = TEMPLATE
    yield engine
    engine.shutdown()


@pytest.fixture
def post(engine):
    def post(path, first, *, settings=None, **fields):
        """One answer, greedy; `first`: how much the sign of a call is favoured."""
        signs = {"<": first, "}": 100, **dict.fromkeys(" \n\t\r", -100)}
        bias = {str(engine.tokenizer.encode(sign)[0]): each for sign, each in signs.items()}
        body = {"model": engine.model_name, "temperature": 0, "logit_bias": bias}
        schema = {"type": "json_schema", "name": "x", "schema": FORM}
        if path == CHAT:
            described = {"type": "json_schema", "json_schema": {"name": "x", "schema": FORM}}
            body |= {"messages": [{"role": "user", "content": "Go."}], "max_tokens": 150}
            body |= {"tools": [{"type": "function", "function": FUNCTION}]}
            body |= {"response_format": described}
        else:
            body |= {"input": "Go.", "max_output_tokens": 150, "text": {"format": schema}}
            body |= {"tools": [{"type": "function", **FUNCTION}]}

        async def run():
            app = create_app(engine, settings or HttpSettings())
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return await http.post(path, json={**body, **fields}, timeout=120)

        return asyncio.run(run())

    return post


def told(reply, path):
    """The content of a chat or response, whole or streamed, and its calls."""
    if not reply.text.startswith("{"):
        lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
        events = [json.loads(line) for line in lines]
        if path == RESPONSES:
            return items_of(events[-1]["response"])
        deltas = [event["choices"][0]["delta"] for event in events]
        calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
        names = [call["name"] for call in calls if "name" in call]
        arguments = "".join(call["arguments"] for call in calls)
        text = "".join(delta.get("content") or "" for delta in deltas)
        return text, list(zip(names, [arguments], strict=False))
    if path == RESPONSES:
        return items_of(reply.json())
    message = reply.json()["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message["content"] or "", [(call["name"], call["arguments"]) for call in calls]


def items_of(response):
    texts = [item["content"][0]["text"] for item in response["output"] if item["type"] == "message"]
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    return "".join(texts), [(call["name"], call["arguments"]) for call in calls]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_real_model_may_call_or_answer_in_the_form(post, path, stream):
    assert told(post(path, 100, stream=stream), path) == ("", [("add", "{}")])
    text, calls = told(post(path, -100, stream=stream), path)
    assert json.loads(text)["n"] in (1, 2)
    assert calls == []


@pytest.mark.parametrize(("path", "param"), [(CHAT, "response_format"), (RESPONSES, "text.format")])
def test_where_no_grammar_is_made_of_calls_the_pair_is_refused(post, path, param):
    settings = HttpSettings(tool_parser="qwen3-coder")
    reply = post(path, 100, settings=settings)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"].startswith(param)
    assert "'tool_choice' to none or required" in error["message"]
    assert post(path, 100, settings=settings, tool_choice="none").status_code == 200


def test_who_names_one_tool_or_forbids_several_calls_gets_one(make_engine, ask):
    engine = make_engine(max_context=4096)
    named = {"type": "function", "function": {"name": "add"}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Go."}]}
    body["tools"] = [{"type": "function", "function": FUNCTION}]
    for fields in (
        {"tool_choice": "required"},
        {"tool_choice": named},
        {"tool_choice": "required", "parallel_tool_calls": False},
    ):
        assert ask(engine, "POST", CHAT, json={**body, **fields}).status_code == 200
    frames = [each.sampling.structured_outputs.frame for each in engine.submitted]
    assert [frame is not None for frame in frames] == [True, False, False]
