"""Forms of answers over HTTP: OpenAI's fields and vLLM's, kept to, whole and streamed."""

import json
import re

import jsonschema
import pytest
from engine_case import start

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {"b": {"enum": [1, 2]}, "a": {"type": "string", "maxLength": 3}},
    "required": ["b", "a"],
    "additionalProperties": False,
}
OBJECT = {"type": "object"}


def body_for(path, **fields):
    base = {"messages": HELLO} if path == CHAT else {"prompt": "hello"}
    return {"model": "tiny", **base, **fields}


def described(**fields):
    return {"type": "json_schema", "json_schema": {"name": "x", **fields}}


ASKED = [
    ({"response_format": {"type": "text"}}, None, None, None),
    ({"response_format": {"type": "json_object"}}, "json", OBJECT, "response_format"),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}},
     "json", SCHEMA, "response_format.schema"),
    ({"response_format": described(schema=SCHEMA, strict=True, description="y")},
     "json", SCHEMA, "response_format.json_schema.schema"),
    ({"response_format": described(schema=SCHEMA, strict=None)},
     "json", SCHEMA, "response_format.json_schema.schema"),
    ({"structured_outputs": {"json": SCHEMA}}, "json", SCHEMA, "structured_outputs"),
    ({"structured_outputs": {"json_object": True}}, "json", OBJECT, "structured_outputs"),
    ({"structured_outputs": {"regex": "a+", "choice": None, "disable_any_whitespace": False}},
     "regex", "a+", "structured_outputs"),
    ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ["a", "b"], "structured_outputs"),
    ({"structured_outputs": {"grammar": "root ::= x"}},
     "grammar", "root ::= x", "structured_outputs"),
    ({"guided_json": json.dumps(SCHEMA)}, "json", json.dumps(SCHEMA), "guided_json"),
    ({"guided_json": SCHEMA, "guided_decoding_backend": "any"}, "json", SCHEMA, "guided_json"),
    ({"guided_regex": "a"}, "regex", "a", "guided_regex"),
    ({"guided_choice": ["a"], "guided_grammar": None}, "choice", ["a"], "guided_choice"),
    ({"guided_grammar": "start: x"}, "grammar", "start: x", "guided_grammar"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind", "value", "asked_as"), ASKED)
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_the_engine_gets_the_form(make_engine, ask, path, fields, kind, value, asked_as):
    engine = make_engine()
    assert ask(engine, "POST", path, json=body_for(path, n=2, **fields)).status_code == 200
    assert len(engine.submitted) == 2
    for request in engine.submitted:
        form = request.sampling.structured_outputs
        if kind is None:
            assert form is None
        else:
            assert (form.kind, getattr(form, kind), form.asked_as) == (kind, value, asked_as)


REFUSED = [
    ({"response_format": "json"}, "response_format", "an object"),
    ({"response_format": {}}, "response_format.type", "json_object"),
    ({"response_format": {"type": "json"}}, "response_format.type", "'json_object'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "an object"),
    ({"response_format": described()}, "response_format.json_schema.schema", "required"),
    ({"response_format": described(schema=5)}, "response_format.json_schema.schema", "an object"),
    ({"response_format": described(schema={}, strict="yes")},
     "response_format.json_schema.strict", "'yes'"),
    ({"response_format": described(schema={}, shape=1)},
     "response_format.json_schema.shape", "unknown field"),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema", "unknown"),
    ({"structured_outputs": "x"}, "structured_outputs", "an object"),
    ({"structured_outputs": {}}, "structured_outputs", "none"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "json and regex"),
    ({"structured_outputs": {"choice": "ab"}}, "structured_outputs", "list of texts"),
    ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
     "structured_outputs.whitespace_pattern", "unknown field"),
    ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
     "structured_outputs.disable_any_whitespace", "not supported"),
    ({"guided_json": [1]}, "guided_json", "JSON Schema"),
    ({"guided_regex": 5}, "guided_regex", "no text"),
    ({"guided_choice": []}, "guided_choice", "list of texts"),
    ({"guided_regex": "a", "response_format": {"type": "json_object"}},
     "guided_regex", "'response_format' and 'guided_regex'"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "part"), REFUSED)
def test_what_is_no_form_is_refused(make_engine, ask, fields, param, part):
    engine = make_engine()
    response = ask(engine, "POST", CHAT, json=body_for(CHAT, **fields))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
    assert engine.submitted == []


@pytest.fixture(scope="module")
def engine(tiny_model):
    engine = start(tiny_model)
    yield engine
    engine.shutdown()


def test_answers_keep_to_a_schema_whole_and_streamed(engine, ask):
    asked = body_for(
        CHAT, model=engine.model_name, seed=1, max_tokens=400,
        response_format=described(schema=SCHEMA, strict=True),
    )  # fmt: skip
    reply = ask(engine, "POST", CHAT, json={**asked, "n": 3}).json()
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["stop"] * 3
    texts = [choice["message"]["content"] for choice in reply["choices"]]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
        assert list(json.loads(text)) == ["b", "a"], "in the order of the schema"
    lines = ask(engine, "POST", CHAT, json={**asked, "stream": True}).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    streamed = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert streamed == texts[0]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_completion_matches_an_expression(engine, ask):
    asked = body_for(PLAIN, model=engine.model_name, guided_regex="[ab]{4}")
    (choice,) = ask(engine, "POST", PLAIN, json=asked).json()["choices"]
    assert re.fullmatch("[ab]{4}", choice["text"])


def test_what_cannot_be_kept_to_is_refused_with_its_place(engine, ask):
    schema = {"type": "object", "properties": {"a": {"uniqueItems": True}}}
    for stream in (False, True):
        asked = body_for(
            CHAT, model=engine.model_name, stream=stream, response_format=described(schema=schema)
        )
        response = ask(engine, "POST", CHAT, json=asked)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "response_format.json_schema.schema"
        assert error["message"].endswith("at #/properties/a")
