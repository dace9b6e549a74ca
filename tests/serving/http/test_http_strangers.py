"""What those who do not know the server well send, and how it helps them on."""

import pytest

from gossamer.serving.http.settings import HttpSettings

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/version", "/v1/models", "/v1/models/tiny"]
)
def test_what_can_be_got_answers_head(make_engine, ask, path):
    engine = make_engine()
    head, get = ask(engine, "HEAD", path), ask(engine, "GET", path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_is_no_way_around(make_engine, ask):
    engine = make_engine()
    assert ask(engine, "HEAD", "/v1/adapters").status_code == 403
    assert ask(engine, "HEAD", "/v1/completions").status_code == 405


def error_of(reply, status):
    assert reply.status_code == status
    return reply.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "/completions", "/v1/completions"),
        ("GET", "/models", "/v1/models"),
        ("GET", "/models/poet", "/v1/models/poet"),
        ("POST", "/v1/v1/messages", "/v1/messages"),
        ("POST", "/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("POST", "/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("POST", "/chat/completions/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/completions/chat/completions", "/v1/chat/completions"),
        ("GET", "/v1/chat/completions/models", "/v1/models"),
        ("POST", "/api/v1/chat/completions/", "/v1/chat/completions"),
        ("POST", "/v2/chat", None),
        ("POST", "/v1/", None),
    ],
)
def test_a_wrong_base_url(make_engine, ask, method, path, meant):
    message = error_of(ask(make_engine(), method, path), 404)["message"]
    assert f"no such route: {method} {path}" in message
    assert message.endswith(f"; did you mean {meant}?") is bool(meant)


def test_a_long_address_is_not_repeated(make_engine, ask):
    far = "/x" * 30_000 + "/v1/models"
    for path in ("/nonsense/" + "a" * 60_000, "/v1/models/" + "a" * 60_000, far):
        assert len(error_of(ask(make_engine(), "GET", path), 404)["message"]) < 400


def test_options_names_the_setting_for_web_pages(make_engine, ask):
    engine = make_engine()
    message = error_of(ask(engine, "OPTIONS", "/v1/completions"), 405)["message"]
    assert "--cors-origin" in message
    settings = HttpSettings(cors_origins=("https://a.example",))
    reply = ask(engine, "OPTIONS", "/v1/completions", settings=settings)
    assert "--cors-origin" not in error_of(reply, 405)["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "route"),
    [
        ("chat/completions", {"model": "tiny", "prompt": "x"}, "prompt", "/v1/completions"),
        ("completions", CHAT, "messages", "/v1/chat/completions"),
    ],
)
def test_the_field_of_the_other_route_names_it(make_engine, ask, path, body, param, route):
    error = error_of(ask(make_engine(), "POST", f"/v1/{path}", json=body), 400)
    assert error["param"] == param
    assert f"'{param}' is for {route}; send it there" in error["message"]
