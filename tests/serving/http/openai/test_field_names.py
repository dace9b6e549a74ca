"""Errors name the fields of the route that was called, whatever its body was turned into."""

import pytest

from gossamer.errors import RequestError
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.openai.chat.field_names import THE_SAME, FieldNames

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "hello"}]
BODIES = {
    RESPONSES: {"model": "tiny", "input": HELLO},
    MESSAGES: {"model": "tiny", "messages": HELLO, "max_tokens": 9},
    "/v1/chat/completions": {"model": "tiny", "messages": HELLO},
}
NAMES = FieldNames(
    {
        "messages": "input",
        "messages[1]": "input[4]",
        "messages[1].content": "input[4].output",
        "stop": "stop_sequences",
        "max_tokens": "max_output_tokens",
        "tools[*].function": "tools[*]",
        "tools[*].function.parameters": "tools[*].input_schema",
    }
)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("messages[1].content[3].text must be", "input[4].output[3].text must be"),
        ("messages[1].role is", "input[4].role is"),
        ("messages[11].content is", "input[11].content is"),
        ("'messages' must not be", "'input' must not be"),
        ("there are 5 messages and they stop", "there are 5 messages and they stop"),
        ("'stop' = 5 and stop[2]", "'stop_sequences' = 5 and stop_sequences[2]"),
        ("max_tokens=5; lower 'max_tokens'", "max_output_tokens=5; lower 'max_output_tokens'"),
        ("min_max_tokens my.max_tokens max_tokens_x", "min_max_tokens my.max_tokens max_tokens_x"),
        ("tools[12].function.parameters.type", "tools[12].input_schema.type"),
        ("tools[3].function.name (tools[4].type)", "tools[3].name (tools[4].type)"),
    ],
)
def test_paths_are_renamed_in_sentences(message, told):
    assert NAMES.renamed(ApiError(400, message)).message == told


def test_the_field_is_renamed_and_the_rest_stays():
    error = ApiError(429, "later", code="busy", param="messages[1].content[0]", headers={"A": "b"})
    renamed = NAMES.renamed(error)
    assert renamed.param == "input[4].output[0]"
    assert (renamed.status, renamed.code, renamed.headers) == (429, "busy", {"A": "b"})
    assert THE_SAME.renamed(error) is error


FAILURES = [
    ("response_format", RESPONSES, "text.format"),
    ("response_format.json_schema.schema", RESPONSES, "text.format.schema"),
    ("response_format.json_schema.schema", MESSAGES, "output_config.format.schema"),
    ("response_format.json_schema.schema", "/v1/chat/completions", None),
    ("max_tokens", RESPONSES, "max_output_tokens"),
    ("max_tokens", MESSAGES, None),
    ("prompt", RESPONSES, "input"),
    ("stop", MESSAGES, "stop_sequences"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("field", "route", "theirs"), FAILURES)
def test_what_the_engine_refuses_is_told_by_the_clients_own_name(
    make_engine, ask, field, route, theirs, stream
):
    error = RequestError(f"'{field}' cannot be kept to", param=field)
    engine = make_engine(script=lambda request: [error])
    reply = ask(engine, "POST", route, json={**BODIES[route], "stream": stream})
    assert f"'{theirs or field}' cannot be kept to" in reply.text
    if route != MESSAGES:
        assert reply.json()["error"]["param"] == (theirs or field)


@pytest.mark.parametrize("route", [RESPONSES, MESSAGES])
def test_so_is_a_failure_on_the_way(make_engine, ask, route):
    error = RequestError("response_format: nothing may follow", param="response_format")
    engine = make_engine(script=lambda request: ["a", error])
    reply = ask(engine, "POST", route, json={**BODIES[route], "stream": True})
    assert reply.status_code == 200
    name = "text.format" if route == RESPONSES else "output_config.format"
    assert f'"message":"{name}: nothing may follow"' in reply.text


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (RESPONSES, "max_output_tokens"),
        ("/v1/chat/completions", "max_tokens"),
        ("/v1/chat/completions", "max_completion_tokens"),
    ],
)
def test_too_little_room_is_told_by_the_field_that_was_sent(make_engine, ask, route, field):
    body = {**BODIES[route], field: 10_000}
    error = ask(make_engine(), "POST", route, json=body).json()["error"]
    assert f"lower '{field}' to " in error["message"]
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("route", "fields", "param"),
    [
        (RESPONSES, {"input": [{"type": "function_call", "name": "f", "arguments": "no"}]},
         "input[0].arguments"),
        (RESPONSES, {"input": [*HELLO, {"type": "function_call_output", "output": 5}]},
         "input[1].output"),
        (RESPONSES, {"input": [{"type": "function_call", "name": "f", "arguments": "{}"},
                               {"type": "function_call", "name": "b b", "arguments": "{}"}]},
         "input[1].name"),
        (RESPONSES, {"reasoning": {"effort": 5}}, "reasoning.effort"),
        (RESPONSES, {"text": {"verbosity": 5}}, "text.verbosity"),
        (RESPONSES, {"tools": [{"type": "function", "name": "f", "parameters": 5}]},
         "tools[0].parameters"),
        (MESSAGES, {"output_config": {"effort": 5}}, "output_config.effort"),
        (MESSAGES, {"thinking": {"type": "hard"}}, "'thinking'"),
        (MESSAGES, {"messages": [{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "x", "signature": ""},
            {"type": "text", "text": "x"}, {"type": "text", "text": 5}]}]},
         "messages[0].content[2].text"),
        (MESSAGES, {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": 5, "content": "x"}]}]},
         "messages[0].content[0].tool_use_id"),
        (MESSAGES, {"system": [{"type": "text", "text": 5}]}, "system[0].text"),
        (MESSAGES, {"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_by_its_place(make_engine, ask, route, fields, param):
    reply = ask(make_engine(), "POST", route, json={**BODIES[route], **fields})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert param in error["message"]
    if route == RESPONSES:
        assert error["param"] == param
