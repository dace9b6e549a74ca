"""What a person sees who opens the address, and what a program can read of the routes."""

import base64
import hashlib
import re

import pytest

from gossamer.serving.http.settings import HttpSettings

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


def test_a_server_with_keys_says_so(make_engine, ask):
    headers = {"Authorization": "Bearer secret"}
    document = ask(make_engine(), "GET", "/openapi.json", settings=KEYED, headers=headers).json()
    assert document["security"] == [{"key": []}]


def test_models_tell_the_length_of_the_context_by_vllms_name_too(make_engine, ask):
    for model in ask(make_engine(), "GET", "/v1/models").json()["data"]:
        assert model["max_model_len"] == model["max_context"] == 256
