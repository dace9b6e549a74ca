"""/v1/responses by the official client: answers, events, calls, and what is stored."""

import gc
import json
import time
from contextlib import ExitStack

import openai
import pytest
from fake_engine import endless
from live_server import live
from raw import PATIENCE, call, connected, send

from gossamer.errors import OverloadedError, cut
from gossamer.serving.http.openai.responses_api.store import ResponseStore, StoredResponse

ROUTE = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
OUTPUT = {"type": "function_call_output", "output": "Sunny"}


def says(*texts):
    """A script that answers call after call, each text in pieces."""
    left = list(texts)

    def script(request):
        text = left.pop(0) if len(left) > 1 else left[0]
        return [text[i : i + 3] for i in range(0, len(text), 3)]

    return script


@pytest.fixture
def client_of(make_engine):
    """Start a server over a fake engine; yields its client and the engine."""
    with ExitStack() as stack:

        def make(*texts, **options):
            script = options.pop("script", None) or says(*texts)
            engine = make_engine(script=script, max_context=4096)
            host, port = stack.enter_context(live(engine, **options))
            url = f"http://{host}:{port}/v1"
            client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0)
            return stack.enter_context(client), engine

        yield make


def prompt(engine, number=-1):
    return engine.tokenizer.decode(engine.submitted[number].prompt_token_ids)


def test_a_text_is_answered(client_of):
    client, engine = client_of("It is Paris.")
    response = client.responses.create(
        model="tiny", input="Capital of France?", instructions="Be brief.", max_output_tokens=50
    )
    assert response.output_text == "It is Paris."
    assert (response.status, response.error, response.incomplete_details) == (
        "completed",
        None,
        None,
    )
    [message] = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert response.usage.input_tokens > 20
    assert response.usage.output_tokens == 4
    assert prompt(engine) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_cut_answer_is_incomplete(client_of):
    client, _ = client_of("It is Paris.")
    response = client.responses.create(model="tiny", input="x", max_output_tokens=2)
    assert (response.status, response.output_text) == ("incomplete", "It is ")
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("text", ["It is Paris.", f"Let me look.\n{CALL}", f"{CALL}\n{CALL}", ""])
def test_events_come_in_order_and_make_the_whole_response(client_of, text):
    client, _ = client_of(text)
    fields = {"model": "tiny", "input": "How is Paris?", "tools": [TOOL]}
    whole = client.responses.create(**fields)
    events = list(client.responses.create(**fields, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] == "completed"
    open_items, texts = {}, {}
    for event in events[2:-1]:
        index = event.output_index
        kind = event.type.removeprefix("response.")
        if kind == "output_item.added":
            assert index == len(open_items)
            open_items[index], texts[index] = event.item.id, ""
        elif kind == "output_item.done":
            said = event.item.arguments if event.item.type == "function_call" else (
                event.item.content[0].text)  # fmt: skip
            assert (event.item.id, said) == (open_items[index], texts[index])
        elif kind.endswith(".delta"):
            assert event.item_id == open_items[index]
            texts[index] += event.delta
        elif kind in ("output_text.done", "function_call_arguments.done"):
            assert (event.text if kind[0] == "o" else event.arguments) == texts[index]

    def said(response):
        drop = ("id", "call_id")
        return [
            {k: v for k, v in item.to_dict().items() if k not in drop} for item in response.output
        ]

    assert said(events[-1].response) == said(whole)
    assert len(open_items) == len(whole.output)


def test_calls_are_items_and_their_results_go_on(client_of):
    client, engine = client_of(CALL, "It is sunny.")
    items = [{"role": "user", "content": [{"type": "input_text", "text": "How is Paris?"}]}]
    first = client.responses.create(model="tiny", input=items, tools=[TOOL])
    [call] = first.output
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments) == {"city": "Paris"}
    items += [call.to_dict(), {**OUTPUT, "call_id": call.call_id}]
    second = client.responses.create(model="tiny", input=items, tools=[TOOL])
    assert second.output_text == "It is sunny."
    assert CALL in prompt(engine)
    assert "<tool_response>\nSunny\n</tool_response>" in prompt(engine)


def test_a_response_goes_on_from_a_stored_one(client_of):
    client, engine = client_of("One.", "Two.", "Three.")
    first = client.responses.create(model="tiny", input="a", instructions="Be brief.")
    stream = client.responses.create(
        model="tiny", input="b", previous_response_id=first.id, stream=True
    )
    second = list(stream)[-1].response
    client.responses.create(model="tiny", input="c", previous_response_id=second.id)
    # Instructions are those of each call.
    turns = ["user\na", "assistant\nOne.", "user\nb", "assistant\nTwo.", "user\nc"]
    said = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    assert prompt(engine) == f"{said}<|im_start|>assistant\n"
    assert second.previous_response_id == first.id


def test_a_response_goes_on_from_one_whose_call_was_cut(client_of):
    client, engine = client_of('{"name": "get_weather", "arguments": {"city": "Paris"}}', "One.")
    fields = {"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 14}
    first = client.responses.create(model="tiny", input="How is Paris?", **fields)
    [call] = first.output
    assert (call.type, call.status) == ("function_call", "incomplete")
    second = client.responses.create(model="tiny", input="b", previous_response_id=first.id)
    client.responses.create(model="tiny", input="c", previous_response_id=second.id)
    turns = ["user\nHow is Paris?", "user\nb", "assistant\nOne.", "user\nc"]
    said = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    assert prompt(engine) == f"{said}<|im_start|>assistant\n"


CUT = '{"name": "get_weather", "arguments": {"city": "'


def test_a_call_that_a_stop_text_has_cut_is_incomplete(client_of):
    client, engine = client_of(CUT, CUT, "One.")
    fields = {"model": "tiny", "tools": [TOOL], "tool_choice": "required"}
    for is_streamed in (False, True):
        made = client.responses.create(
            input="a", **fields, stream=is_streamed, extra_body={"stop": ["Par"]}
        )
        last = list(made)[-1] if is_streamed else None
        response = last.response if last else made
        [call] = response.output
        assert (call.type, call.status, call.arguments) == (
            "function_call", "incomplete", '{"city": "')  # fmt: skip
        assert (response.status, response.incomplete_details.reason) == ("incomplete", "stop")
        assert last is None or last.type == "response.incomplete"
    # By its id, and sent back: the same turns.
    new = {"role": "user", "content": "b"}
    client.responses.create(model="tiny", input=[new], previous_response_id=response.id)
    history = [{"role": "user", "content": "a"}, call.to_dict(), new]
    client.responses.create(model="tiny", input=history, store=False)
    said = "".join(f"<|im_start|>user\n{turn}<|im_end|>\n" for turn in "ab")
    assert prompt(engine, -2) == prompt(engine) == f"{said}<|im_start|>assistant\n"


@pytest.mark.parametrize("store", ["true", "false"])
def test_what_was_sent_is_not_held_while_it_is_answered(make_engine, store):
    engine = make_engine(script=endless, delay=0.01)
    body = '{"model": "tiny", "stream": true, "max_output_tokens": 200, "store": ' + store
    body += ', "input": [{"role": "user", "content": [{"type": "input_text", "text": "held?"}]}]}'
    with live(engine) as address, connected(address) as client:
        send(client, "POST", ROUTE, body.encode())
        received = b""
        while b"output_text.delta" not in received:
            received += client.recv(4096)
        parts = [each for each in gc.get_objects() if isinstance(each, list) and len(each) == 1]
        held = [each for each in parts if isinstance(each[0], dict)]
        assert not [each for each in held if each[0].get("text") == "held?"]


def test_what_is_held_for_the_reply_takes_room_for_bodies(make_engine):
    engine = make_engine(script=endless, delay=0.01, max_context=20_000)
    kept = {"model": "tiny", "stream": True, "input": "a", "instructions": "b" * 11_000}
    room = {"max_body_mib": 0.015, "max_bodies_mib": 0.03}
    with live(engine, **room) as address:
        with connected(address) as first, connected(address) as second:
            for client in (first, second):
                send(client, "POST", ROUTE, json.dumps(kept).encode())
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
            status, headers, told = call(address, "POST", ROUTE, kept)
            assert status == 503
            assert told["error"]["code"] == "too_many_bodies"
            assert "retry-after" in headers
        # Their clients have left.
        done = kept | {"stream": False, "max_output_tokens": 1}
        until = time.monotonic() + PATIENCE
        while (status := call(address, "POST", ROUTE, done)[0]) == 503:
            assert time.monotonic() < until
        assert status == 200


def test_an_answer_is_kept_to_a_schema(client_of):
    client, engine = client_of("{}")
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    response = client.responses.create(model="tiny", input="a", text={"format": form})
    assert engine.submitted[0].sampling.structured_outputs.json == {"type": "object"}
    assert response.text.format.name == "x"


def test_stored_responses_are_shown_and_forgotten(client_of):
    client, _ = client_of("One.")
    kept = client.responses.create(model="tiny", input="a", metadata={"k": "v"})
    assert client.responses.retrieve(kept.id).output_text == "One."
    assert client.responses.retrieve(kept.id).metadata == {"k": "v"}
    assert client.responses.input_items.list(kept.id).data[0].content == "a"
    client.responses.delete(kept.id)
    for missing in (kept.id, client.responses.create(model="tiny", input="a", store=False).id):
        with pytest.raises(openai.NotFoundError, match="no response"):
            client.responses.retrieve(missing)
        with pytest.raises(openai.NotFoundError, match="no response"):
            client.responses.create(model="tiny", input="b", previous_response_id=missing)


@pytest.mark.parametrize(
    ("method", "path", "fields", "param"),
    [
        ("POST", ROUTE, {"input": "b", "previous_response_id": "gone"}, "previous_response_id"),
        ("GET", f"{ROUTE}/gone", None, "response_id"),
        ("DELETE", f"{ROUTE}/gone", None, "response_id"),
    ],
)
def test_a_response_that_is_not_stored_is_told_by_the_clients_name_for_its_id(
    make_engine, ask, method, path, fields, param
):
    body = None if fields is None else {"model": "tiny", **fields}
    reply = ask(make_engine(), method, path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, param)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, {"effort": None, "summary": None}),
        ({"effort": "low"}, {"effort": "low", "summary": None}),
        ({"effort": "none", "summary": "auto"}, {"effort": "none", "summary": "auto"}),
    ],
)
def test_a_response_repeats_how_much_was_to_be_thought(make_engine, ask, given, told):
    engine = make_engine(max_context=4096)
    reply = ask(engine, "POST", ROUTE, json={"model": "tiny", "input": "x", "reasoning": given})
    assert reply.json()["reasoning"] == told


def test_failures_on_the_way_are_raised_by_the_client(client_of):
    client, _ = client_of(script=lambda request: ["a", OverloadedError("too much", retry_after=1)])
    with pytest.raises(openai.APIError, match="too much"):
        list(client.responses.create(model="tiny", input="a", stream=True))


def stored(number, size):
    return StoredResponse(str(number), b"", b"", b"x" * size)


def test_the_store_keeps_the_newest_of_each_tenant_within_its_room():
    store = ResponseStore(100)
    for number in range(4):
        assert store.keep("a", stored(number, 20))
    assert store.keep("b", stored(9, 40))
    assert not store.keep("a", stored(8, 51))
    assert store.find("b", "9").num_bytes == 40
    assert store.find("a", "3").num_bytes == 20
    for tenant, missing in (("a", "0"), ("a", "1"), ("b", "3"), ("a", "8")):
        with pytest.raises(Exception, match="no response"):
            store.find(tenant, missing)


REFUSED = [
    ({"input": None}, "input", "a text or a list"),
    ({"input": []}, "input", "at least one item"),
    ({"input": [5]}, "input[0]", "object"),
    ({"input": [{"role": "usr", "content": "x"}]}, "input[0].role", "'user'"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type", "'web_search_call'"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
     "input[0].content[0]", "'input_image'"),
    ({"input": [{"type": "function_call", "name": "a b", "arguments": "{}"}]},
     "input[0].name", "input[0]"),
    ({"input": "x", "instructions": 5}, "instructions", "text"),
    ({"input": "x", "background": True}, "background", "not supported"),
    ({"input": "x", "truncation": "auto"}, "truncation", "not supported"),
    ({"input": "x", "include": ["message.output_text.logprobs"]}, "include", "not supported"),
    ({"input": "x", "max_output_tokens": -1}, "max_output_tokens", "equal to 0"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
    ({"input": "x", "text": 5}, "text", "object"),
    ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type", "xml"),
    ({"input": "x", "n": 2}, "n", "unknown field"),
    ({"input": "x", "metadata": []}, "metadata", "object of texts"),
    ({"input": "x", "metadata": {str(n): "" for n in range(17)}}, "metadata", "at most 16"),
    ({"input": "x", "metadata": {"k" * 65: ""}}, f"metadata.{cut('k' * 65)}", "64 characters"),
    ({"input": "x", "metadata": {"k": "v" * 513}}, "metadata.k", "512 characters"),
    ({"input": "x", "metadata": {"k": 5}}, "metadata.k", "must be a text"),
    ({"input": "x", "store": "no"}, "store", "true or false"),
    ({"messages": [{"role": "user", "content": "x"}]}, "messages", "/v1/chat/completions"),
]  # fmt: skip


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_number_that_json_cannot_say_again_is_refused(make_engine, ask, stream):
    head = {"Content-Type": "application/json"}
    body = (
        '{"model": "tiny", "input": "x", "tools": [{"type": "function", "name": "f", "parameters": '
    )
    body += '{"minimum": 1e999}}], "stream": ' + stream + "}"
    reply = ask(make_engine(), "POST", ROUTE, content=body.encode(), headers=head)
    assert reply.status_code == 400
    assert "too large" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("fields", "param", "part"), REFUSED)
def test_what_cannot_be_is_refused_by_its_place(make_engine, ask, fields, param, part):
    engine = make_engine()
    reply = ask(engine, "POST", ROUTE, json={"model": "tiny", **fields})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
    assert engine.submitted == []
