"""Which web pages may use a server without keys: none but its own and those that are named."""

import socket

import pytest

from gossamer.errors import SettingError
from gossamer.serving.http.settings import HttpSettings

PLAIN = "/v1/completions"
BODY = {"model": "tiny", "prompt": "a"}


def post(ask, engine, headers, **settings):
    return ask(engine, "POST", PLAIN, json=BODY, headers=headers, settings=HttpSettings(**settings))


@pytest.mark.parametrize(
    "host",
    [
        "localhost:8000",
        "LOCALHOST",
        "localhost.",
        "app.localhost:80",
        "127.0.0.1:8000",
        "127.8.8.8",
        "[::1]:8000",
        "192.168.1.7:8000",
        socket.gethostname(),
        "",
    ],
)
def test_names_of_this_machine_are_served(make_engine, ask, host):
    assert post(ask, make_engine(), {"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "a" * 30_000],
)
def test_other_names_are_refused_on_every_route_but_health(make_engine, ask, host):
    engine = make_engine()
    for method, path in (
        ("POST", PLAIN),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/x"),
    ):
        options = {"json": BODY} if method == "POST" else {}
        response = ask(engine, method, path, headers={"Host": host}, **options)
        assert response.status_code == 421
        error = response.json()["error"]
        assert error["code"] == "host_not_allowed"
        assert "--allowed-host" in error["message"]
        assert len(response.content) < 500
    assert engine.submitted == []
    assert ask(engine, "GET", "/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("allowed", ["llm.example", "LLM.Example", "*"])
def test_further_names_are_allowed_by_a_setting(make_engine, ask, allowed):
    headers = {"Host": "llm.example:8000"}
    assert post(ask, make_engine(), headers, allowed_hosts=(allowed,)).status_code == 200


def test_the_name_that_the_server_listens_on_is_its_own(make_engine, ask):
    assert post(ask, make_engine(), {"Host": "box.lan"}, host="box.lan").status_code == 200


@pytest.mark.parametrize("host", ["http://a", "a:80", ""])
def test_a_name_is_neither_an_address_nor_empty(host):
    with pytest.raises(SettingError, match="leave out scheme and port"):
        HttpSettings.parse({"allowed_hosts": (host,)})


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[::1"},
    {"Origin": ""},
    {"Origin": "http://localhost:3000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://a.example.evil.example", "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("cors", [(), ("https://a.example",)])
def test_pages_of_other_origins_may_not_act(make_engine, ask, headers, cors):
    engine = make_engine()
    response = post(ask, engine, {"Host": "localhost:8000", **headers}, cors_origins=cors)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "cross_site"
    assert "--cors-origin" in response.json()["error"]["message"]
    for method in ("PUT", "DELETE"):
        path = "/v1/adapters/pirate/pin"
        assert ask(engine, method, path, headers=headers).json()["error"]["code"] == ("cross_site")
    assert (engine.submitted, engine.controls) == ([], [])


@pytest.mark.parametrize(
    ("headers", "cors"),
    [
        ({}, ()),
        ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, ()),
        ({"Origin": "https://LOCALHOST:8000"}, ()),
        ({"Sec-Fetch-Site": "none"}, ()),
        ({"Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}, ("https://a.example",)),
        ({"Origin": "https://b.example", "Sec-Fetch-Site": "cross-site"}, ("*",)),
    ],
)
def test_own_pages_named_ones_and_programs_may(make_engine, ask, headers, cors):
    headers = {"Host": "localhost:8000", **headers}
    assert post(ask, make_engine(), headers, cors_origins=cors).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN)
def test_without_its_key_a_page_may_not_act_on_a_server_with_keys(make_engine, ask, headers):
    """Nor by a cookie, which its browser would send along."""
    engine = make_engine()
    response = post(ask, engine, {"Host": "any.example", **headers}, api_keys=("secret",))
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "cross_site"
    assert engine.submitted == []


@pytest.mark.parametrize("headers", [*FOREIGN, {"Host": "evil.example"}])
def test_with_keys_the_key_decides(make_engine, ask, headers):
    headers = {"Authorization": "Bearer secret", **headers}
    assert post(ask, make_engine(), headers, api_keys=("secret",)).status_code == 200


def test_the_refusal_can_be_read_by_a_page_that_may_call(make_engine, ask):
    """A named origin under a name that is not allowed sees why."""
    headers = {"Host": "llm.example", "Origin": "https://a.example"}
    response = post(ask, make_engine(), headers, cors_origins=("https://a.example",))
    assert response.status_code == 421
    assert response.headers["access-control-allow-origin"] == "https://a.example"
