"""Bodies that are refused, each with the field and a remedy, and those that only look odd."""

import pytest

from gossamer.serving.http.settings import HttpSettings

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"


def body_for(path, fields):
    base = {"messages": HELLO} if path == CHAT else {"prompt": "hello"}
    return {"model": "tiny", **base, **fields}


REFUSED = [
    # path, fields, param, part of the message
    (CHAT, {"temprature": 1}, "temprature", "did you mean 'temperature'"),
    (CHAT, {"temperature": 2.5}, "temperature", "less than or equal to 2"),
    (CHAT, {"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    (CHAT, {"temperature": "hot"}, "temperature", "'hot'"),
    (CHAT, {"temperature": True}, "temperature", "True"),
    (CHAT, {"temperature": [1]}, "temperature", "[1]"),
    (CHAT, {"top_p": -0.1}, "top_p", "greater than or equal to 0"),
    (CHAT, {"top_p": 1.01}, "top_p", "less than or equal to 1"),
    (CHAT, {"top_k": -2}, "top_k", "-1"),
    (CHAT, {"top_k": 1.5}, "top_k", "1.5"),
    (CHAT, {"min_p": 2}, "min_p", "less than or equal to 1"),
    (CHAT, {"seed": 2**63}, "seed", str(2**63)),
    (CHAT, {"seed": "1"}, "seed", "'1'"),
    (CHAT, {"n": 0}, "n", "greater than or equal to 1"),
    (CHAT, {"n": 129}, "n", "at most 128"),
    (CHAT, {"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    (CHAT, {"prompt_logprobs": 21}, "prompt_logprobs", "20"),
    (CHAT, {"prompt_logprobs": 0, "stream": True}, "prompt_logprobs", "leave 'stream' out"),
    (CHAT, {"max_tokens": 5.5}, "max_tokens", "5.5"),
    (CHAT, {"max_tokens": 5, "min_tokens": 6}, "min_tokens", "'max_tokens'"),
    (CHAT, {"stop": ""}, "stop", "non-empty"),
    (CHAT, {"stop": ["a", 1]}, "stop", "list of such texts"),
    (CHAT, {"stop": ["a"] * 17}, "stop", "at most 16"),
    (CHAT, {"stream": "yes"}, "stream", "'yes'"),
    (CHAT, {"stream": True, "stream_options": 3}, "stream_options", "3"),
    (
        CHAT,
        {"stream": True, "stream_options": {"usage": True}},
        "stream_options.usage",
        "include_usage",
    ),
    (CHAT, {"logprobs": 3}, "logprobs", "3"),
    (CHAT, {"top_logprobs": 3}, "top_logprobs", "'logprobs': true"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    (CHAT, {"presence_penalty": 2.1}, "presence_penalty", "less than or equal to 2"),
    (CHAT, {"frequency_penalty": -2.1}, "frequency_penalty", "-2"),
    (CHAT, {"model": 3}, "model", "3"),
    (CHAT, {"model": None}, "model", "required"),
    (CHAT, {"continue_final_message": True, "add_generation_prompt": True},
     "continue_final_message", "exclude"),
    (CHAT, {"messages": None}, "messages", "required"),
    (CHAT, {"messages": []}, "messages", "at least one"),
    (CHAT, {"messages": "hello"}, "messages", "list"),
    (CHAT, {"messages": ["hello"]}, "messages[0]", "object"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role", "system"),
    (CHAT, {"messages": [*HELLO, {"role": "usr", "content": "x"}]}, "messages[1].role", "'user'"),
    (CHAT, {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "'tool'"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content", "string"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "string"),
    (CHAT, {"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "text parts"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "nam": "y"}]}, "messages[0].nam", "name"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "name": 5}]},
     "messages[0].name", "string"),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
     "messages[0].tool_calls[0]", "must be like"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "messages[0].content[0]", "image_url"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
     "messages[0].content[0].text", "string"),
    (CHAT, {"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "object"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools[0].function", "must be an object"),
    (CHAT, {"tool_choice": "required"}, "tool_choice", "needs 'tools'"),
    (CHAT, {"logit_bias": {"5": 101}}, "logit_bias", "-100..100"),
    (CHAT, {"logit_bias": {"x": 1}}, "logit_bias", "no token id"),
    (CHAT, {"logit_bias": [5]}, "logit_bias", "must be an object"),
    (CHAT, {"stop_token_ids": [True]}, "stop_token_ids", "whole numbers"),
    (CHAT, {"bad_words": [""]}, "bad_words", "non-empty"),
    (CHAT, {"bad_words": ["a"] * 65}, "bad_words", "at most 64"),
    (CHAT, {"audio": {"voice": "x"}}, "audio", "answers are text"),
    (CHAT, {"mirostat": 1}, "mirostat", "not supported"),
    (CHAT, {"reasoning_effort": "x" * 33}, "reasoning_effort", "32"),
    (PLAIN, {"truncate_prompt_tokens": 10}, "truncate_prompt_tokens", "prompts are not cut"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities", "not supported"),
    (CHAT, {"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    (CHAT, {"chat_template": "x"}, "chat_template", "not supported"),
    (CHAT, {"best_of": 2}, "best_of", "not supported"),
    (CHAT, {"prompt": "x"}, "prompt", "unknown field"),
    (PLAIN, {"messages": HELLO}, "messages", "unknown field"),
    (PLAIN, {"prompt": None}, "prompt", "required"),
    (PLAIN, {"prompt": []}, "prompt", "token ids"),
    (PLAIN, {"prompt": {}}, "prompt", "token ids"),
    (PLAIN, {"prompt": 5}, "prompt", "token ids"),
    (PLAIN, {"prompt": [1, "a"]}, "prompt", "not mixed"),
    (PLAIN, {"prompt": [1, True]}, "prompt", "not mixed"),
    (PLAIN, {"prompt": [1, -1]}, "prompt", "from 0"),
    (PLAIN, {"prompt": [[1], []]}, "prompt", "not mixed"),
    (PLAIN, {"prompt": [[1], "a"]}, "prompt", "not mixed"),
    (PLAIN, {"prompt": [1.5]}, "prompt", "whole numbers"),
    (PLAIN, {"prompt": ""}, None, "empty"),
    (PLAIN, {"logprobs": 21}, "logprobs", "20"),
    (PLAIN, {"logprobs": True}, "logprobs", "True"),
    (CHAT, {"echo": True}, "echo", "not supported"),
    (PLAIN, {"echo": 1}, "echo", "1"),
    (PLAIN, {"suffix": "end"}, "suffix", "not supported"),
    (PLAIN, {"best_of": 1, "n": 2}, "best_of", "less than 'n'"),
    (PLAIN, {"best_of": 3, "stream": True}, "best_of", "leave 'stream' out"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "param", "part"), REFUSED)
def test_refused(make_engine, ask, path, fields, param, part):
    engine = make_engine()
    response = ask(engine, "POST", path, json=body_for(path, fields))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert part in error["message"]
    assert "\n" not in error["message"]
    assert engine.submitted == []


ACCEPTED = [
    (CHAT, {"tools": None, "tool_choice": None, "response_format": None, "temperature": None}),
    (CHAT, {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "functions": []}),
    (CHAT, {"response_format": {"type": "text"}, "modalities": ["text"], "logit_bias": {}}),
    (CHAT, {"user": "u1", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"}),
    (CHAT, {"reasoning_effort": "low", "verbosity": "high", "request_id": "r", "mirostat": 0}),
    (CHAT, {"stream_options": {"include_usage": True}, "cache_prompt": True, "typical_p": 1.0}),
    (CHAT, {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}, "x": 1}]}]}),
    (CHAT, {"safety_identifier": "x", "prompt_cache_key": "y", "verbosity": "medium"}),
    (CHAT, {"stream": True, "stream_options": {"include_obfuscation": False}}),
    (CHAT, {"max_tokens": 5, "max_completion_tokens": 5, "stop": None, "best_of": 1}),
    (CHAT, {"temperature": 2, "top_p": 1, "presence_penalty": 0, "repetition_penalty": 1.0}),
    (CHAT, {"messages": [{"role": "assistant", "content": "a", "refusal": None, "audio": None,
                          "tool_calls": None, "function_call": None, "annotations": []}]}),
    (CHAT, {"messages": [{"role": "user", "content": "", "name": "Ann"}]}),
    (PLAIN, {"echo": False, "suffix": None, "best_of": 1, "logprobs": None, "logit_bias": None}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields"), ACCEPTED)
def test_what_common_clients_send_by_default_is_accepted(make_engine, ask, path, fields):
    response = ask(make_engine(), "POST", path, json=body_for(path, fields))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "JSON object"),
        (b'"text"', "JSON object"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', "not valid JSON"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', "not valid JSON"),
        (b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', "finite"),
        (b'{"model": "tiny", "prompt": ' + b"[" * 50_000, "not valid JSON"),
        (b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5_000 + b"}", "not valid JSON"),
    ],
)
def test_bodies_that_are_no_request(make_engine, ask, content, part):
    headers = {"Content-Type": "application/json"}
    response = ask(make_engine(), "POST", PLAIN, content=content, headers=headers)
    assert response.status_code == 400
    assert part in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"]
)
def test_json_by_any_of_its_names_is_read(make_engine, ask, kind):
    content, headers = b'{"model": "tiny", "prompt": "a"}', {"Content-Type": kind}
    response = ask(make_engine(), "POST", PLAIN, content=content, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("keys", [(), ("secret",)])
@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, "x-www-form-urlencoded'; add"),
        ({"Content-Type": "text/plain"}, "'text/plain'; add the header 'Content-Type: app"),
        ({"Content-Type": "text/json+json"}, "-H 'Content-Type: application/json'"),
        ({"Content-Type": ""}, "no content type"),
        ({"Origin": "http://localhost"}, "no content type"),
        ({"Origin": "http://localhost", "User-Agent": "x"}, "no content type"),
        ({"Sec-Fetch-Site": "none"}, "no content type"),
        ({"Sec-Fetch-Mode": "no-cors"}, "no content type"),
        ({"Referer": "http://localhost/a"}, "no content type"),
        ({"User-Agent": "Mozilla/5.0 (X11; rv:60.0) Gecko/20100101"}, "no content type"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, "'gzip' are not read"),
    ],
)
def test_other_bodies_are_not_read(make_engine, ask, headers, part, keys):
    content = b'{"model": "tiny", "prompt": "a"}'
    headers = {**headers, "Authorization": "Bearer secret"}
    settings = HttpSettings(api_keys=keys)
    engine = make_engine()
    response = ask(engine, "POST", PLAIN, content=content, headers=headers, settings=settings)
    assert response.status_code == 415
    assert part in response.json()["error"]["message"]
    assert engine.submitted == []


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_a_program_may_leave_the_content_type_out(make_engine, ask, keys):
    headers = {"Authorization": "Bearer secret"}
    content, settings = b'{"model": "tiny", "prompt": "a"}', HttpSettings(api_keys=keys)
    response = ask(
        make_engine(), "POST", PLAIN, content=content, headers=headers, settings=settings
    )
    assert response.status_code == 200


def test_long_values_are_cut_in_messages(make_engine, ask):
    body = body_for(CHAT, {"temperature": "x" * 10_000})
    response = ask(make_engine(), "POST", CHAT, json=body)
    assert len(response.json()["error"]["message"]) < 300
