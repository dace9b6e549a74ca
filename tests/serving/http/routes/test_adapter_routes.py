"""Routes that load, unload and pin: who may, what reaches the engine, what errors become."""

import pytest

from gossamer.errors import (
    AdapterFormatError,
    CapacityError,
    EngineStoppedError,
    RequestError,
    UnknownModelError,
)
from gossamer.serving.http.settings import HttpSettings

ROUTES = [
    ("GET", "/v1/adapters", None),
    ("POST", "/v1/adapters", {"name": "x", "path": "x"}),
    ("DELETE", "/v1/adapters/pirate", None),
    ("PUT", "/v1/adapters/pirate/pin", None),
    ("DELETE", "/v1/adapters/pirate/pin", None),
    ("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "x"}),
    ("POST", "/v1/unload_lora_adapter", {"lora_name": "pirate"}),
]
ADMIN = {"settings": HttpSettings(api_keys=("key",)), "headers": {"Authorization": "Bearer key"}}


@pytest.fixture
def call(make_engine, ask):
    engine = make_engine()

    def call(method, path, body=None, **options):
        more = {"json": body} if body is not None else {}
        return ask(engine, method, path, **{**ADMIN, **more, **options})

    call.engine = engine
    return call


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_only_administrators_reach_the_adapters(call, method, path, body):
    reply = call(method, path, body, settings=HttpSettings(), headers={})
    assert reply.status_code == 403
    assert "and start the server with --keys" in reply.text
    assert "administrator's key" in reply.json()["error"]["message"]
    assert call(method, path, body, headers={}).status_code == 401
    assert call.engine.controls == []
    assert call(method, path, body).status_code == 200


def test_what_reaches_the_engine(call):
    call("POST", "/v1/adapters", {"name": "a", "path": "b", "pin": True})
    call("POST", "/v1/adapters", {"name": "a", "replace": True})
    call("DELETE", "/v1/adapters/a")
    call("PUT", "/v1/adapters/a/pin")
    call("DELETE", "/v1/adapters/a/pin")
    load = {"lora_name": "c", "lora_path": "d", "load_inplace": True}
    call("POST", "/v1/load_lora_adapter", load)
    call("POST", "/v1/unload_lora_adapter", {"lora_name": "c"})
    assert call.engine.controls == [
        ("load", "a", "b", False, True),
        ("load", "a", None, True, False),
        ("unload", "a"),
        ("pin", "a", True),
        ("pin", "a", False),
        ("load", "c", "d", True, False),
        ("unload", "c"),
    ]


def test_the_list_tells_everything(call):
    data = {each["id"]: each for each in call("GET", "/v1/adapters").json()["data"]}
    assert data["pirate"] == {
        "id": "pirate",
        "object": "adapter",
        "state": "resident",
        "kind": "low-rank",
        "rank": 8,
        "num_bytes": 64,
        "digest": "abc",
        "pinned": False,
        "requests": 0,
        "hits": 0,
        "last_used": None,
        "problem": None,
        "alias_of": None,
    }
    assert data["broken"]["problem"] == "weights hold NaN"


def test_the_list_comes_in_pages(call):
    whole = call("GET", "/v1/adapters").json()
    names = [each["id"] for each in whole["data"]]
    assert names == sorted(names)
    assert len(names) > 2
    assert not whole["has_more"]
    found, after = [], ""
    for _ in names:
        page = call("GET", f"/v1/adapters?limit=1&after={after}").json()
        served = [each for each in page["data"] if each["problem"] is None]
        assert len(served) <= 1
        found += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert found == names
    assert call("GET", "/v1/adapters?limit=0").json()["error"]["param"] == "limit"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"name": "a", "path": 3}, "path"),
        ({"name": "a", "pin": "yes"}, "pin"),
        ({"name": "a", "url": "http://elsewhere"}, "url"),
    ],
)
def test_bodies_that_make_no_sense(call, body, param):
    reply = call("POST", "/v1/adapters", body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert call.engine.controls == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownModelError("no such adapter"), 404),
        (RequestError("not below a folder", param="lora_path"), 400),
        (AdapterFormatError("torn"), 422),
        (CapacityError("too large"), 400),
        (EngineStoppedError("stopping"), 503),
    ],
)
def test_errors_at_once_and_later(call, error, status):
    for field in ("control_answer", "control_result"):
        call.engine.control_answer = call.engine.control_result = None
        setattr(call.engine, field, error)
        for method, path, body in ROUTES[1:]:
            reply = call(method, path, body)
            assert reply.status_code == status
            assert reply.json()["error"]["message"] == str(error)
