"""Tools in chats: what is refused, what the model gets, and its calls, whole and streamed."""

import json
import random

import openai
import pytest
from live_server import live

from gossamer.serving.http.settings import HttpSettings

from tiny import tiny_tokenizer

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "How is Paris?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
OTHER = {"type": "function", "function": {"name": "add", "description": "Add numbers."}}
ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO = ONE + '\n<tool_call>\n{"name": "add", "arguments": {"a": [1, 2]}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par'
ANSWERS = [ONE, TWO, "Let me look.\n" + ONE, "It is sunny.\n", BROKEN, "", "<tool_call>{}"]


@pytest.fixture
def says(make_engine):
    """Engines that answer a text, cut at random."""

    def says(text, **options):
        def script(request):
            draw, place = random.Random(len(text)), 0
            while place < len(text):
                length = draw.choice((1, 2, 5, 30))
                yield text[place : place + length]
                place += length

        return make_engine(
            script=lambda request: list(script(request)), max_context=4096, **options
        )

    return says


@pytest.fixture
def chat(ask):
    def chat(engine, *, settings=None, **fields):
        body = {"model": "tiny", "messages": HELLO, "tools": [TOOL, OTHER], **fields}
        return ask(engine, "POST", CHAT, json=body, settings=settings)

    return chat


def whole(reply):
    """The message of a reply and why it ended, less the ids of calls, which are random."""
    choice = reply.json()["choices"][0]
    message = choice["message"]
    for call in message.get("tool_calls", ()):
        assert call.pop("id").startswith("call_")
    return message, choice["finish_reason"]


def streamed(reply):
    """The same, put together from a stream."""
    message, reason = {"role": None, "content": None, "refusal": None}, None
    for line in reply.text.split("\n\n"):
        if not line or line == "data: [DONE]":
            continue
        [choice] = json.loads(line.removeprefix("data: "))["choices"]
        delta = choice["delta"]
        reason = choice["finish_reason"] or reason
        message["role"] = delta.get("role") or message["role"]
        if delta.get("content"):
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            function = call["function"]
            if call["index"] == len(calls):
                assert call["id"].startswith("call_")
                new = {"name": function["name"], "arguments": function["arguments"]}
                calls.append({"type": call["type"], "function": new})
            else:
                assert set(call) == {"index", "function"}
                calls[call["index"]]["function"]["arguments"] += function["arguments"]
    return message, reason


def calls_of(message):
    functions = [call["function"] for call in message["tool_calls"]]
    return [(each["name"], json.loads(each["arguments"])) for each in functions]


def test_a_call_is_answered_in_openai_shape(says, chat):
    message, reason = whole(chat(says("Let me look.\n" + TWO)))
    assert reason == "tool_calls"
    assert message["content"] == "Let me look."
    assert calls_of(message) == [("get_weather", {"city": "Paris"}), ("add", {"a": [1, 2]})]
    assert {call["type"] for call in message["tool_calls"]} == {"function"}


@pytest.mark.parametrize("text", ANSWERS)
def test_streams_say_what_whole_answers_say(says, chat, text):
    engine = says(text)
    assert streamed(chat(engine, stream=True)) == whole(chat(engine))


def test_broken_calls_are_content(says, chat):
    message, reason = whole(chat(says(BROKEN)))
    assert (message["content"], reason) == (BROKEN, "stop")
    assert "tool_calls" not in message


def test_an_answer_that_is_cut_says_length(says, chat):
    message, reason = whole(chat(says(TWO), max_tokens=12))
    assert reason == "length"
    assert calls_of(message) == [("get_weather", {"city": "Paris"})]


CUT = '{"name": "get_weather", "arguments": {"city": "'
FIRST = '{"name": "add", "arguments": {}}\n'


@pytest.mark.parametrize("text", [CUT, FIRST + CUT])
def test_a_required_call_that_a_stop_text_has_cut_is_not_finished(says, chat, text):
    for fields in ({}, {"stream": True}):
        read = streamed if fields else whole
        message, reason = read(chat(says(text), tool_choice="required", stop=["Par"], **fields))
        assert reason == "stop"
        assert message["tool_calls"][-1]["function"]["arguments"] == '{"city": "'


def test_a_cut_call_that_is_left_out_is_not_missed(says, chat):
    engine = says(FIRST + CUT)
    one = chat(engine, tool_choice="required", parallel_tool_calls=False)
    message, reason = whole(one)
    assert (calls_of(message), reason) == ([("add", {})], "tool_calls")


def test_no_more_than_one_call_without_parallel_ones(says, chat):
    for fields in ({}, {"stream": True}):
        read = streamed if fields else whole
        message, _ = read(chat(says(TWO), parallel_tool_calls=False, **fields))
        assert calls_of(message) == [("get_weather", {"city": "Paris"})]


def test_without_tools_text_that_looks_like_a_call_stays_text(says, chat):
    for fields in ({"tools": []}, {"tools": None}, {"tool_choice": "none"}):
        message, reason = whole(chat(says(ONE), **fields))
        assert (message["content"], reason) == (ONE, "stop")


def test_the_model_sees_tools_unless_none_is_to_be_called(says, chat, tokenizer):
    engine = says("ok")
    chat(engine)
    chat(engine, tool_choice="none")
    chat(engine, tool_choice={"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "name": "add"}]}})  # fmt: skip
    shown = [tokenizer.decode(request.prompt_token_ids) for request in engine.submitted]
    assert ["get_weather" in text for text in shown] == [True, False, False]
    assert ["Add numbers." in text for text in shown] == [True, False, True]
    assert '"strict"' not in shown[0]


def test_calls_and_results_of_a_history_reach_the_model(says, chat, tokenizer):
    engine = says("Sunny.")
    call = {"id": "x", "type": "function"}
    call["function"] = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "x", "content": [{"type": "text", "text": "Sunny"}]},
    ]
    assert chat(engine, messages=turns, tools=None).status_code == 200
    text = tokenizer.decode(engine.submitted[0].prompt_token_ids)
    assert ONE + "<|im_end|>\n<|im_start|>user\n<tool_response>\nSunny\n</tool_response>" in text


def test_odd_turns_of_real_programs_are_taken(says, chat):
    turns = [
        {"role": "user", "content": []},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"a": 1}}]},
        {"role": "assistant", "content": "b", "reasoning_content": "", "id": "m", "timestamp": 1},
        {"role": "user", "content": "c", "id": "n"},
    ]
    assert chat(says("ok"), messages=turns).status_code == 200


def test_log_probabilities_of_all_tokens_come_with_calls(says, chat):
    engine = says(ONE)
    choice = chat(engine, logprobs=True).json()["choices"][0]
    lines = chat(engine, logprobs=True, stream=True).text.split("\n\n")[:-2]
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
    told = [
        entry for chunk in chunks for entry in (chunk["logprobs"] or {"content": []})["content"]
    ]
    assert "".join(entry["token"] for entry in told) == ONE
    assert told == choice["logprobs"]["content"]


def test_a_parser_can_be_named(says, chat):
    text = '[TOOL_CALLS]get_weather{"city": "Paris"}'
    message, _ = whole(chat(says(text), settings=HttpSettings(tool_parser="generic")))
    assert calls_of(message) == [("get_weather", {"city": "Paris"})]
    message, _ = whole(chat(says(text), settings=HttpSettings(tool_parser="hermes")))
    assert message["content"] == text


def test_special_tokens_of_the_syntax_are_asked_of_the_engine(make_engine, chat):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>"]})
    engine = make_engine(script=lambda request: ["ok"], max_context=4096)
    engine.tokenizer = tokenizer
    chat(engine)
    chat(engine, tools=[])
    kept = [request.sampling.kept_special_tokens for request in engine.submitted]
    assert kept == [(tokenizer.convert_tokens_to_ids("<tool_call>"),), ()]


THINKS = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*"},
        "content": {"close_pattern": r"<\|im_end\|>\s*"},
    },
}


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tool_choice": "none"}])
def test_thoughts_that_the_tokenizer_describes_come_apart(says, chat, fields):
    engine = says("<think>Hm. <tool_call></think>\nIt is sunny.")
    engine.tokenizer = tiny_tokenizer()
    engine.tokenizer.response_template = THINKS
    message, reason = whole(chat(engine, **fields))
    assert (message["reasoning_content"], message["content"]) == (
        "Hm. <tool_call>",
        "It is sunny.",
    )
    assert reason == "stop"
    content, _ = streamed(chat(engine, stream=True, **fields))
    assert content["content"] == "It is sunny."
    for kept in ({"skip_special_tokens": False}, {"response_format": {"type": "json_object"}}):
        message, _ = whole(chat(engine, tools=[], **kept))
        assert message["content"].startswith("<think>")


DEEP = {"type": "object"}
for _ in range(40):
    DEEP = {"properties": DEEP}


def function(**fields):
    return {"type": "function", "function": {"name": "f", **fields}}


REFUSED = [
    ({"tools": {}}, "tools", "must be a list"),
    ({"tools": ["f"]}, "tools[0]", "must be like"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
    ({"tools": [function(name="a b")]}, "tools[0].function.name", "'a b'"),
    ({"tools": [function(name="<|im_end|>")]}, "tools[0].function.name", "letters"),
    ({"tools": [function(), function()]}, "tools", "tools[1] is the second"),
    ({"tools": [function(name=f"f{n}") for n in range(129)]}, "tools", "at most 128"),
    ({"tools": [function(description=5)]}, "tools[0].function.description", "string"),
    ({"tools": [function(parameters=[])]}, "tools[0].function.parameters", "JSON schema"),
    ({"tools": [function(parameters=DEEP)]}, "tools[0].function.parameters", "32 levels"),
    ({"tools": [function(parameters={"type": "string"})]}, "tools[0].function.parameters.type",
     "is 'string': arguments are an object"),
    ({"tools": [function(parameters={"type": ["array", "null"]})], "tool_choice": "required"},
     "tools[0].function.parameters.type", "['array', 'null']"),
    ({"tools": [function(parametres={})]}, "tools[0].function.parametres", "'parameters'"),
    ({"tools": [function(description="a" * 100_000)]}, None, "cannot hold"),
    ({"tool_choice": "any"}, "tool_choice", "any"),
    ({"tool_choice": {"type": "function"}}, "tool_choice", "must be none, auto"),
    ({"tool_choice": {"type": "function", "function": {"name": "get_wether"}}},
     "tool_choice", "did you mean 'get_weather'"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "bool"),
    ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize", "variable"),
    ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs.a b", "variable"),
    ({"chat_template_kwargs": {"a": DEEP}}, "chat_template_kwargs", "32 levels"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "object"),
]  # fmt: skip
CALLS = [
    (5, "tool_calls", "list"),
    ([{"function": {"name": "f", "arguments": "{"}}], "tool_calls[0].function.arguments", "JSON"),
    (
        [{"function": {"name": "f", "arguments": "[1]"}}],
        "tool_calls[0].function.arguments",
        "object",
    ),
    ([{"function": {"arguments": "{}"}}], "tool_calls[0].function.name", "letters"),
    ([{"type": "custom", "custom": {}}], "tool_calls[0]", "must be like"),
    ([{"id": 5, "function": {"name": "f"}}], "tool_calls[0].id", "string"),
]
REFUSED += [
    ({"messages": [{"role": "assistant", "tool_calls": calls}]}, f"messages[0].{param}", part)
    for calls, param, part in CALLS
]


@pytest.mark.parametrize(("fields", "param", "part"), REFUSED)
def test_what_cannot_be_is_refused_by_its_place(says, chat, fields, param, part):
    engine = says("ok")
    reply = chat(engine, **fields)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
    assert engine.submitted == []


def test_openai_client_finishes_a_task_with_two_tools(says):
    """The loop of an agent: the client's own objects go back into the history."""

    def script(request):
        text = tokenizer.decode(request.prompt_token_ids)
        if text.count("<tool_response>") == 0:
            return list(TWO)
        return ["Sunny", ", and 3."] if "\n3\n" in text else ["?"]

    tokenizer = tiny_tokenizer()
    engine = says("")
    engine.script = script
    with live(engine) as (host, port):
        url = f"http://{host}:{port}/v1"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        turns = list(HELLO)
        for _ in range(2):
            with client.chat.completions.stream(
                model="tiny", messages=turns, tools=[{**TOOL}, {**OTHER}]
            ) as stream:
                message = stream.get_final_completion().choices[0].message
            turns.append(message)
            turns += [
                {"role": "tool", "tool_call_id": call.id, "content": result}
                for call, result in zip(message.tool_calls or [], ("Sunny", "3"), strict=False)
            ]
        assert message.content == "Sunny, and 3."
