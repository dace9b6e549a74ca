"""/v1/messages, as Anthropic's clients send and read it."""

import json

import pytest

from gossamer.errors import OverloadedError
from gossamer.serving.http.settings import HttpSettings

ROUTE = "/v1/messages"
HELLO = [{"role": "user", "content": "How is Paris?"}]
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
def says(make_engine):
    """Engines that answer a text in pieces of three characters."""

    def says(text, **options):
        pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
        return make_engine(script=lambda request: pieces, max_context=4096, **options)

    return says


@pytest.fixture
def send(ask):
    def send(engine, *, path=ROUTE, settings=None, headers=None, **fields):
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 300, **fields}
        return ask(engine, "POST", path, json=body, settings=settings, headers=headers)

    return send


def prompt(engine):
    return engine.tokenizer.decode(engine.submitted[-1].prompt_token_ids)


def events(reply):
    """The events of a stream, each under its own name."""
    found = []
    for block in filter(None, reply.text.split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def gathered(told):
    """The message that events tell."""
    assert told[0]["type"] == "message_start"
    assert [event["type"] for event in told[-2:]] == ["message_delta", "message_stop"]
    message = told[0]["message"]
    for event in told[1:-1]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append(event["content_block"])
            text = ""
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(message["content"]) - 1
            delta = event["delta"]
            text += delta.get("text") or delta.get("partial_json") or ""
        elif event["type"] == "content_block_stop":
            block = message["content"][event["index"]]
            block |= {"text": text} if block["type"] == "text" else {"input": json.loads(text)}
        else:
            message |= event["delta"]
            message["usage"] |= event["usage"]
    return message


def plain(message):
    return {
        **message,
        "id": None,
        "content": [{**block, "id": None} for block in message["content"]],
    }


def test_a_message_has_anthropics_shape(says, send):
    engine = says("It is sunny.")
    message = send(engine, system="Be brief.").json()
    assert message["id"].startswith("msg_")
    assert message["content"] == [{"type": "text", "text": "It is sunny."}]
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "tiny")
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    assert message["usage"]["output_tokens"] == 4
    assert message["usage"]["input_tokens"] == len(engine.submitted[0].prompt_token_ids)
    assert prompt(engine).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("text", ["It is sunny.", f"Let me look.\n{CALL}", f"{CALL}\n{CALL}", ""])
def test_events_make_the_whole_message(says, send, text):
    engine = says(text)
    whole = send(engine, tools=[TOOL]).json()
    assert plain(gathered(events(send(engine, tools=[TOOL], stream=True)))) == plain(whole)


def test_uses_of_tools_and_their_results_go_on(says, send):
    message = send(says(CALL), tools=[TOOL]).json()
    [block] = message["content"]
    assert message["stop_reason"] == "tool_use"
    assert (block["type"], block["name"], block["input"]) == (
        "tool_use", "get_weather", {"city": "Paris"})  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": block["id"], "content": [
        {"type": "text", "text": "Sunny"}]}  # fmt: skip
    turns = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}, block]},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    engine = says("It is sunny.")
    assert send(engine, messages=turns, tools=[TOOL]).status_code == 200
    said = prompt(engine)
    assert f"<|im_start|>assistant\n{CALL}<|im_end|>" in said
    assert "user\n<tool_response>\nSunny\n</tool_response><|im_end|>" in said
    assert said.endswith("user\nAnd now?<|im_end|>\n<|im_start|>assistant\n")


def test_a_tool_has_to_be_called_by_any_or_by_name(says, send):
    engine = says("{}")
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}, {"type": "auto"}):
        send(engine, tools=[TOOL], tool_choice=choice)
    forms = [request.sampling.structured_outputs for request in engine.submitted]
    assert [form is not None for form in forms] == [True, True, False]


def test_an_answer_is_kept_to_a_schema(says, send):
    engine = says("{}")
    send(engine, output_config={"effort": "low", "format": {
        "type": "json_schema", "schema": {"type": "object"}}})  # fmt: skip
    assert engine.submitted[0].sampling.structured_outputs.json == {"type": "object"}


def test_what_has_ended_an_answer_is_told(says, send):
    # The engine leaves in what has ended it, as it does when asked.
    engine = says("One.END")
    message = send(engine, stop_sequences=["STOP", "END"]).json()
    assert engine.submitted[0].sampling.include_stop
    assert message["content"][0]["text"] == "One."
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    message = send(says("One. Two."), max_tokens=2).json()
    assert message["stop_reason"] == "max_tokens"


ENDINGS = [
    (
        ["Strike it with <s>old</s>", " in HTML.", "<|im_end|>"],
        "Strike it with <s>old</s> in HTML.",
    ),
    (["One ", "<|im_end|>", "two."], "One <|im_end|>two."),
    (["Say <|im_end|>"], "Say <|im_end|>"),
    (["One.", "STOP"], "One."),
]


@pytest.mark.parametrize(("pieces", "text"), ENDINGS)
def test_only_what_has_ended_an_answer_is_left_out(make_engine, send, pieces, text):
    engine = make_engine(script=lambda request: pieces, max_context=4096)
    whole = send(engine, stop_sequences=["STOP"]).json()
    told = gathered(events(send(engine, stop_sequences=["STOP"], stream=True)))
    assert whole["content"] == told["content"] == [{"type": "text", "text": text}]
    met = "STOP" if pieces[-1] == "STOP" else None
    assert whole["stop_sequence"] == told["stop_sequence"] == met
    cut = send(engine, stop_sequences=["STOP"], max_tokens=len(pieces)).json()
    assert cut["stop_reason"] == "max_tokens"


def test_a_stop_text_within_a_use_of_a_tool_is_why_it_ends(make_engine, send):
    # An engine holds back what may be the stop text until it is whole.
    pieces = ['{"name": "get_weather", ', '"arguments": ', '{"city": "', "Par"]
    engine = make_engine(script=lambda request: pieces, max_context=4096)
    fields = {"tools": [TOOL], "tool_choice": {"type": "any"}, "stop_sequences": ["Par"]}
    message = send(engine, **fields).json()
    [start, *_, end, _] = events(send(engine, stream=True, **fields))
    assert start["type"] == "message_start"
    for told in (message, end["delta"]):
        assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "Par")
    # As where `max_tokens` has cut it.
    cut = send(engine, **{**fields, "stop_sequences": ["x"]}, max_tokens=3).json()
    assert cut["stop_reason"] == "max_tokens"
    assert plain(message)["content"] == plain(cut)["content"]


def test_the_result_of_a_tool_that_has_failed_says_so(says, send):
    engine = says("Sorry.")
    use = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Paris"}}
    for content, said in (
        ("No such city", "Error: No such city"),
        ([{"type": "text", "text": "No such city"}], "Error: No such city"),
        (None, "Error"),
    ):
        result = {"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": True}
        turns = [
            *HELLO,
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
        assert send(engine, messages=turns, tools=[TOOL]).status_code == 200
        assert f"<tool_response>\n{said}\n</tool_response>" in prompt(engine)
        turns[-1] = {"role": "user", "content": [{**result, "is_error": False, "content": "5 C"}]}
        assert send(engine, messages=turns, tools=[TOOL]).status_code == 200
        assert "<tool_response>\n5 C\n</tool_response>" in prompt(engine)


def test_tokens_are_counted_without_an_answer(says, send):
    engine = says("x")
    fields = {"system": [{"type": "text", "text": "Be brief."}], "tools": [TOOL]}
    reply = send(engine, path=f"{ROUTE}/count_tokens", max_tokens=None, **fields)
    assert engine.submitted == []
    send(engine, **fields)
    assert reply.json() == {"input_tokens": len(engine.submitted[0].prompt_token_ids)}


def test_keys_come_as_anthropics_clients_send_them(says, send):
    settings = HttpSettings(api_keys=("secret",))
    for headers, status in (({"x-api-key": "secret"}, 200), ({"x-api-key": "other"}, 401)):
        assert send(says("ok"), settings=settings, headers=headers).status_code == status


def test_failures_on_the_way_end_a_stream(make_engine, send):
    error = OverloadedError("too much", retry_after=1)
    engine = make_engine(script=lambda request: ["a", error], max_context=4096)
    last = events(send(engine, stream=True))[-1]
    assert last == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "too much"},
    }


def test_hints_about_tools_and_texts_change_nothing(says, send):
    engine = says("ok")
    hints = {"eager_input_streaming": True, "defer_loading": True, "strict": True,
             "cache_control": {"type": "ephemeral"}, "allowed_callers": ["direct"]}  # fmt: skip
    said = {"type": "text", "text": "Hi", "citations": None, "of_tomorrow": 1}
    for tool, block in ((TOOL, {"type": "text", "text": "Hi"}), ({**TOOL, **hints}, said)):
        assert send(engine, tools=[tool], speed="fast", **blocks(block)).status_code == 200
    assert engine.submitted[0].prompt_token_ids == engine.submitted[1].prompt_token_ids


def test_examples_of_a_tool_are_shown(says, send):
    engine = says("ok")
    tool = {**TOOL, "input_examples": [{"city": "Oslo"}]}
    assert send(engine, tools=[tool]).status_code == 200
    assert '"examples": [{"city": "Oslo"}]' in prompt(engine)


@pytest.mark.parametrize("content", ["It is", [{"type": "text", "text": "It is"}]])
def test_an_answer_goes_on_with_its_beginning(says, send, content):
    engine = says(" sunny.")
    turns = [*HELLO, {"role": "assistant", "content": content}]
    message = send(engine, messages=turns).json()
    assert message["content"] == [{"type": "text", "text": " sunny."}]
    assert prompt(engine).endswith("<|im_start|>assistant\nIt is")
    count = send(engine, path=f"{ROUTE}/count_tokens", messages=turns, max_tokens=None).json()
    assert count["input_tokens"] == len(engine.submitted[0].prompt_token_ids)


def test_an_empty_beginning_is_none(says, send):
    engine = says("ok")
    send(engine)
    for content in ("", []):
        send(engine, messages=[*HELLO, {"role": "assistant", "content": content}])
    assert len({each.prompt_token_ids for each in engine.submitted}) == 1


def test_more_new_tokens_than_fit_are_those_that_fit(says, send):
    engine = says("ok")
    assert send(engine, max_tokens=32_000).status_code == 200
    # As many as there is room for, which the engine knows.
    assert engine.submitted[0].sampling.max_tokens is None
    room = 4096 - len(engine.submitted[0].prompt_token_ids)
    for asked in (room, 0):
        send(engine, max_tokens=asked)
        assert engine.submitted[-1].sampling.max_tokens == asked
    reply = send(engine, max_tokens=32_000, messages=[{"role": "user", "content": "x" * 4096}])
    assert reply.status_code == 400
    assert "leaves no room" in reply.json()["error"]["message"]


def blocks(*content, role="user"):
    return {"messages": [{"role": role, "content": list(content)}]}


REFUSED = [
    ({"max_tokens": None}, "'max_tokens' is required"),
    ({"max_tokens": -1}, "'max_tokens'"),
    ({"messages": []}, "at least one message"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0] must be an object"),
    (blocks({"type": "image", "source": {}}), "messages[0].content[0] is of type 'image'"),
    (blocks({"type": "text", "text": 5}), "messages[0].content[0].text must be a string"),
    (blocks({"type": "tool_use", "name": "a b", "input": {}}, role="assistant"), "'a b'"),
    (blocks({"type": "tool_use", "name": "f", "input": 5}, role="assistant"), "input must be"),
    (blocks({"type": "tool_use", "name": "f", "inputs": {}}, role="assistant"),
     "unknown field 'inputs'"),
    (blocks({"type": "tool_result", "tool_use_id": "t", "is_error": "yes"}),
     "messages[0].content[0].is_error must be true or false"),
    (blocks({"type": "tool_result", "tool_use_id": "t", "error": True}), "unknown field 'error'"),
    ({"system": 5}, "system must be a string"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type is 'bash_20250124'"),
    ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_cal"),
    ({"tools": [{**TOOL, "input_examples": ["Oslo"]}]}, "tools[0].input_examples must be a list"),
    ({"tools": [{**TOOL, "parameters": {}}]}, "unknown field 'parameters'; known: desc"),
    (blocks({"type": "tool_use", "name": "f", "input": {}}, role="assistant"),
     "messages[0] calls tools; send their results"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x"}], "tools": [TOOL],
      "tool_choice": {"type": "any"}}, "'messages' goes on with a text"),
    ({"tools": [{**TOOL, "input_schema": []}]}, "tools[0].input_schema must be a JSON schema"),
    ({"tool_choice": "any"}, "'tool_choice' must have the type"),
    ({"tool_choice": {"type": "any"}}, "needs 'tools'"),
    ({"tools": [{**TOOL, "input_schema": {"type": "string"}}]},
     "tools[0].input_schema.type is 'string'"),
    ({"stop_sequences": [""]}, "'stop_sequences'"),
    ({"output_config": {"format": {"type": "text"}}}, "output_config.format must be"),
    ({"output_config": {"format": {"type": "json_schema", "schema": 5}}},
     "output_config.format.schema"),
    ({"thinking": {"type": ["enabled"]}}, "'thinking' must have the type enabled"),
    ({"thinking": {"type": {}}}, "'thinking' must have the type enabled"),
    ({"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": "false"}},
     "tool_choice.disable_parallel_tool_use is 'false': it must be true or false"),
    ({"n": 2}, "unknown field 'n'"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "part"), REFUSED)
def test_what_cannot_be_is_refused_in_anthropics_shape(says, send, fields, part):
    engine = says("ok")
    reply = send(engine, **fields)
    assert reply.status_code == 400
    error = reply.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert part in error["error"]["message"]
    assert engine.submitted == []


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [("GET", ROUTE, 405, "invalid_request_error"),
     ("GET", f"{ROUTE}/count_tokens", 405, "invalid_request_error"),
     ("POST", f"{ROUTE}/x", 404, "not_found_error")],
)  # fmt: skip
def test_a_wrong_method_or_path_is_refused_in_anthropics_shape(
    make_engine, ask, method, path, status, kind
):
    reply = ask(make_engine(), method, path)
    assert reply.status_code == status
    error = reply.json()
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert path in error["error"]["message"]
    assert reply.headers.get("allow") == ("POST" if status == 405 else None)
    # Another interface's path that only begins alike.
    assert "type" not in ask(make_engine(), "POST", f"{ROUTE}2").json()


def test_unknown_models_are_not_found(says, send):
    reply = send(says("ok"), model="nobody")
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")
