"""Calls that have to be made: what the engine is asked, and that a real one always makes them."""

import asyncio
import json

import httpx
import pytest
from engine_case import start

from gossamer.serving.http.app import create_app
from gossamer.serving.http.openai.chat.calling import call_schema
from gossamer.serving.http.openai.chat.tools import parse_tools
from gossamer.serving.http.settings import HttpSettings

CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"City": {"enum": ["Paris", "Rome"]}},
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
NOTHING = {"type": "function", "function": {"name": "stop"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
# Knows tools, and is short: the tiny model's context is small.
TEMPLATE = (
    "{% if tools %}<tool_call>{% endif %}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.fixture(scope="module")
def engine(tiny_model, tmp_path_factory):
    engine = start(tiny_model, tmp_path_factory.mktemp("adapters"), num_blocks=200)
    engine.tokenizer.chat_template = TEMPLATE
    yield engine
    engine.shutdown()


@pytest.fixture
def call_of(engine):
    def call_of(**fields):
        body = {
            "model": engine.model_name,
            "messages": [{"role": "user", "content": "Go."}],
            "tools": [WEATHER, NOTHING],
            "max_tokens": 200,
            # A model of random weights would write blanks without end.
            "logit_bias": {str(engine.tokenizer.encode(s)[0]): -100 for s in " \n\t\r"},
            **fields,
        }

        async def run():
            app = create_app(engine, HttpSettings())
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return await http.post(CHAT, json=body, timeout=120)

        return asyncio.run(run())

    return call_of


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("seed", range(2))
def test_a_model_that_knows_nothing_makes_a_call_that_keeps_to_the_schema(call_of, choice, seed):
    [answer] = call_of(tool_choice=choice, seed=seed).json()["choices"]
    [call] = answer["message"]["tool_calls"]
    assert (answer["message"]["content"], answer["finish_reason"]) == (None, "tool_calls")
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "get_weather":
        assert arguments["city"] in ("Paris", "Rome")
        assert set(arguments) == {"city", "days"}
        assert arguments["days"] in (1, 2)
    else:
        assert (call["function"]["name"], arguments) == ("stop", {})
        assert choice == "required"


def test_streamed_arguments_come_in_pieces_and_make_the_whole(call_of):
    fields = {"tool_choice": NAMED, "temperature": 0}
    whole = call_of(**fields).json()["choices"][0]["message"]["tool_calls"][0]["function"]
    lines = call_of(**fields, stream=True).text.split("\n\n")[:-2]
    deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines]
    [opened, *rest] = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert opened["function"] == {"name": "get_weather", "arguments": ""}
    pieces = [call["function"]["arguments"] for call in rest]
    assert len(pieces) > 5
    assert "".join(pieces) == whole["arguments"]
    assert not any(delta.get("content") for delta in deltas)


def test_a_required_call_that_is_cut_says_length(call_of):
    [answer] = call_of(tool_choice=NAMED, max_tokens=45).json()["choices"]
    [call] = answer["message"]["tool_calls"]
    assert answer["finish_reason"] == "length"
    assert call["function"]["name"] == "get_weather"


def test_a_stop_text_within_a_required_call_ends_no_call(call_of):
    fields = {"tool_choice": NAMED, "stop": ["city"], "temperature": 0}
    [answer] = call_of(**fields).json()["choices"]
    [call] = answer["message"]["tool_calls"]
    assert answer["finish_reason"] == "stop"
    assert "}" not in call["function"]["arguments"]
    last = call_of(**fields, stream=True).text.split("\n\n")[-3]
    [choice] = json.loads(last.removeprefix("data: "))["choices"]
    assert choice["finish_reason"] == "stop"


def test_a_schema_that_no_grammar_can_keep_is_refused(call_of):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"not": {"a": 1}}}}
    reply = call_of(tools=[tool], tool_choice="required")
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == "tools"


def test_prompt_ends_with_the_marker_of_a_call(make_engine, ask, tokenizer):
    engine = make_engine(max_context=4096)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Go."}], "tools": [WEATHER]}
    ask(engine, "POST", CHAT, json=body)
    ask(engine, "POST", CHAT, json={**body, "tool_choice": "required"})
    free, forced = (tokenizer.decode(each.prompt_token_ids) for each in engine.submitted)
    assert forced == f"{free}<tool_call>\n"
    assert engine.submitted[0].sampling.structured_outputs is None
    assert engine.submitted[1].sampling.structured_outputs is not None


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_addresses_and_formats_of_parameters_are_no_hindrance(call_of, choice):
    city = {"$id": "http://example.com/city", "$ref": "#/$defs/City", "format": "city-name"}
    schema = {
        "$id": "http://example.com/weather",
        "$schema": "http://json-schema.org/draft-07/schema#",
        **SCHEMA,
        "properties": {"city": city, "$id": {"const": "x"}},
        "required": ["city", "$id"],
    }
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    reply = call_of(tools=[tool], tool_choice=choice, parallel_tool_calls=False)
    assert reply.status_code == 200, reply.text
    [call] = reply.json()["choices"][0]["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert set(arguments) == {"city", "$id"}
    assert arguments["city"] in ("Paris", "Rome")


def test_references_of_several_tools_do_not_mix():
    other = {"type": "object", "properties": {"x": {"$ref": "#/$defs/City"}},
             "$defs": {"City": {"type": "integer"}}}  # fmt: skip
    tools = parse_tools(
        [WEATHER, {"type": "function", "function": {"name": "g", "parameters": other}}]
    )
    schema = call_schema(tools, "arguments")
    first, second = schema["$defs"].values()
    assert first["properties"]["city"] == {"$ref": "#/$defs/tool0/$defs/City"}
    assert second["properties"]["x"] == {"$ref": "#/$defs/tool1/$defs/City"}


def one(name, **schema):
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def moved(*tools):
    """The schemas of tools as they stand in that of a call."""
    return list(call_schema(parse_tools(list(tools)), "arguments")["$defs"].values())


@pytest.mark.parametrize(
    "values",
    [{"const": {"$ref": "#/a", "$id": "b", "$schema": "c", "$anchor": "d"}},
     {"enum": [{"$ref": "#"}, {"$id": "b"}]}, {"default": {"$ref": "#d"}},
     {"examples": [{"properties": {"$ref": "#/a"}}]}],
)  # fmt: skip
def test_values_in_a_schema_stay_as_they_are(values):
    named = {name: {"$ref": "#/$defs/City"} for name in values}
    # The same names as those of properties and definitions are no keywords.
    schema = {"properties": {"x": values, **named}, "$defs": {**named, "City": {"type": "string"}}}
    [found] = moved(one("f", **schema))
    assert found["properties"].pop("x") == values
    places = {name: {"$ref": "#/$defs/tool0/$defs/City"} for name in values}
    assert found["properties"] == places
    assert found["$defs"] == {**places, "City": {"type": "string"}}


def test_other_addresses_are_not_touched():
    for reference in ("#missing", "http://example.com/x#/y", "other.json"):
        [found] = moved(one("f", properties={"x": {"$ref": reference}}))
        assert found["properties"]["x"] == {"$ref": reference}
    [found] = moved(one("f", properties={"x": {"$ref": "#"}}))
    assert found["properties"]["x"] == {"$ref": "#/$defs/tool0"}


def anchored(name, value):
    """A tool whose `x` is `value`, by way of an anchor that all such tools have."""
    place = {"$anchor": "q", "const": value}
    schema = {"properties": {"x": {"$ref": "#q"}}, "required": ["x"], "$defs": {"a/b c~%": place}}
    return one(name, **schema, additionalProperties=False)


@pytest.mark.parametrize(("name", "value"), [("f", "one"), ("g", "two")])
def test_anchors_of_several_tools_do_not_mix(call_of, name, value):
    choice = {"type": "function", "function": {"name": name}}
    reply = call_of(tools=[anchored("f", "one"), anchored("g", "two")], tool_choice=choice)
    assert reply.status_code == 200, reply.text
    [call] = reply.json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"x": value}
    both = call_of(tools=[anchored("f", "one"), anchored("g", "two")], tool_choice="required")
    for call in both.json()["choices"][0]["message"]["tool_calls"]:
        wanted = {"f": "one", "g": "two"}[call["function"]["name"]]
        assert json.loads(call["function"]["arguments"]) == {"x": wanted}


def test_an_anchor_that_is_missing_is_refused(call_of):
    bad = one("g", properties={"x": {"$ref": "#q"}})
    reply = call_of(tools=[anchored("f", "one"), bad], tool_choice="required")
    assert reply.status_code == 400, reply.text
    assert "'q'" in reply.json()["error"]["message"]


def test_arguments_are_an_object_where_their_type_admits_more(call_of):
    schema = {**SCHEMA, "type": ["null", "object"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    [found] = moved(tool)
    assert found["type"] == "object"
    [answer] = call_of(tools=[tool], tool_choice="required").json()["choices"]
    assert answer["message"]["tool_calls"]
    for call in answer["message"]["tool_calls"]:
        assert set(json.loads(call["function"]["arguments"])) == {"city", "days"}
