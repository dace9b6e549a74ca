"""What a person sees who opens the address, and what a program can read of the routes."""

import base64
import hashlib
import re

import pytest
from jsonschema import Draft202012Validator

from gossamer.serving.http.anthropic import translate as messages
from gossamer.serving.http.openai.responses_api import translate as responses
from gossamer.serving.http.settings import HttpSettings


def turn(role, content):
    return {"role": role, "content": content}


def text(kind):
    return {"type": kind, "text": "hi"}


KEYED = HttpSettings(api_keys=("secret",))


def test_the_page_greets_and_loads_nothing(make_engine, ask):
    response = ask(make_engine(), "GET", "/", headers={"Host": "localhost:8123"})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    text = response.text
    for part in (
        "Gossamer",
        "<code>tiny</code>",
        "<code>pirate</code>",
        "http://localhost:8123/v1",
    ):
        assert part in text
    assert "broken" not in text
    assert "<script" not in text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert not re.findall(r"(?:src|href)=\"(?!/)", text)


def test_the_page_names_no_model_where_keys_are_asked_for(make_engine, ask):
    response = ask(make_engine(), "GET", "/", settings=KEYED)
    assert response.status_code == 200
    assert "pirate" not in response.text
    assert "Authorization: Bearer KEY" in response.text
    assert ask(make_engine(), "GET", "/openapi.json", settings=KEYED).status_code == 401


def test_the_page_names_some_of_many_models(make_engine, ask, monkeypatch):
    monkeypatch.setattr("gossamer.serving.http.routes.about.MOST_MODELS", 1)
    text = ask(make_engine(), "GET", "/").text
    assert text.count("<li>") == 3
    assert 'and more in <a href="/v1/models">' in text


def test_what_a_client_calls_the_server_is_no_markup(make_engine, ask):
    settings = HttpSettings(allowed_hosts=("*",))
    response = ask(make_engine(), "GET", "/", settings=settings, headers={"Host": "<b>x</b>"})
    assert "<b>" not in response.text


@pytest.mark.parametrize("path", ["/", "/ping", "/health", "/v1/models", "/openapi.json"])
def test_head_is_answered(make_engine, ask, path):
    response = ask(make_engine(), "HEAD", path)
    assert (response.status_code, response.content) == (200, b"")


def test_all_routes_are_described(make_engine, ask):
    document = ask(make_engine(), "GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.")
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["summary"]
    reference = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    assert set(schema["required"]) == {"model", "messages"}
    assert schema["properties"]["temperature"]["maximum"] == 2
    assert schema["properties"]["temperature"]["default"] == 1
    for path in ("/tokenize", "/v1/completions", "/v1/adapters"):
        assert document["paths"][path]["post"]["requestBody"]
    assert "security" not in document
    # All that is referred to is there.
    text = str(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": [text("input_text")]}
USE = {"type": "tool_use", "id": "u", "name": "f", "input": {}}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
FORM = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
TAKEN = [
    ("/v1/responses", {"input": "hi"}),
    ("/v1/responses", {"input": [turn("user", "hi"), CALL, RESULT], "tools": [FUNCTION]}),
    ("/v1/responses", {"input": [turn("user", [text("input_text")]), {"type": "reasoning"}]}),
    ("/v1/responses", {"input": "hi", "text": {"format": {"type": "text"}}, "temperature": 1}),
    ("/v1/responses", {"input": "hi", "text": {"format": FORM, "verbosity": "low"}}),
    ("/v1/responses", {"input": "hi", "reasoning": {"effort": "low"}, "max_output_tokens": 5}),
    ("/v1/messages", {"messages": [turn("user", "hi")], "system": [text("text")]}),
    ("/v1/messages", {"messages": [turn("user", "hi")], "thinking": {"type": "adaptive"}}),
    ("/v1/messages", {"messages": [turn("user", [text("text")]), turn("assistant", [USE]),
                                   turn("user", [{"type": "tool_result", "tool_use_id": "u"}])]}),
    ("/v1/messages", {"messages": [turn("user", "hi")], "stop_sequences": ["x"],
                      "output_config": {"format": {"type": "json_schema", "schema": {}}}}),
    ("/v1/messages/count_tokens", {"messages": [turn("user", "hi")]}),
    ("/tokenize", {"prompt": "hi", "return_token_strs": True}),
    ("/tokenize", {"messages": [turn("user", "hi")]}),
    ("/detokenize", {"tokens": [5]}),
]  # fmt: skip
NOT_TAKEN = [
    ("/v1/responses", {}),
    ("/v1/responses", {"input": []}),
    ("/v1/responses", {"input": [{"type": "web_search_call"}]}),
    ("/v1/responses", {"input": "hi", "tools": [{"type": "web_search"}]}),
    ("/v1/responses", {"input": "hi", "text": {"format": {"type": "xml"}}}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": -1}),
    ("/v1/responses", {"input": "hi", "temperature": 3}),
    ("/v1/messages", {"messages": []}),
    ("/v1/messages", {"messages": [turn("tool", "x")]}),
    ("/v1/messages", {"messages": [turn("user", [{"type": "image", "source": {}}])]}),
    ("/v1/messages", {"messages": [turn("user", "hi")], "tool_choice": {"type": "some"}}),
    ("/v1/messages", {"messages": [turn("user", "hi")], "stop_sequences": [""]}),
    ("/v1/messages", {"messages": [turn("user", "hi")], "thinking": {"type": "hard"}}),
    ("/v1/messages", {"messages": [turn("user", "hi")], "system": 5}),
    ("/tokenize", {}),
    ("/tokenize", {"prompt": "hi", "messages": [turn("user", "hi")]}),
    ("/detokenize", {}),
]


@pytest.fixture(scope="module")
def documents():
    return {}


@pytest.mark.parametrize(("path", "fields", "is_taken"), [
    *((*each, True) for each in TAKEN), *((*each, False) for each in NOT_TAKEN)
])  # fmt: skip
def test_bodies_are_described_as_they_are_read(make_engine, ask, documents, path, fields, is_taken):
    if not documents:
        documents |= ask(make_engine(), "GET", "/openapi.json").json()
    operation = documents["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = {"model": "tiny", **({"max_tokens": 9} if path == "/v1/messages" else {}), **fields}
    judge = Draft202012Validator({**schema, "components": documents["components"]})
    assert judge.is_valid(body) == is_taken
    reply = ask(make_engine(max_context=4096), "POST", path, json=body)
    assert reply.status_code == (200 if is_taken else 400), reply.text


def test_no_field_of_a_translated_body_is_left_out(make_engine, ask):
    document = ask(make_engine(), "GET", "/openapi.json").json()
    for name, module in (("ResponsesBody", responses), ("MessagesBody", messages)):
        described = document["components"]["schemas"][name]["properties"]
        assert set(described) == {*module.SAME, *module.OWN}


def test_a_server_with_keys_says_so(make_engine, ask):
    headers = {"Authorization": "Bearer secret"}
    document = ask(make_engine(), "GET", "/openapi.json", settings=KEYED, headers=headers).json()
    assert document["security"] == [{"key": []}]


def test_models_tell_the_length_of_the_context_by_vllms_name_too(make_engine, ask):
    for model in ask(make_engine(), "GET", "/v1/models").json()["data"]:
        assert model["max_model_len"] == model["max_context"] == 256
