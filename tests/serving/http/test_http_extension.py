"""What another room adds to the server: routes, apps, sessions, open paths, grants, a life."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from commands.keys import key_maker
from fastapi import APIRouter, Request
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from gossamer.errors import DataError
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.app import create_app
from gossamer.serving.http.auth import caller_of
from gossamer.serving.http.extension import Extension
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.keys import Caller

OPEN = HttpSettings()
KEYED = HttpSettings(api_keys=("secret",))
SECRET = {"Authorization": "Bearer secret"}
OURS = AdapterStatus(name="ft:tiny:alice:x:abcdefgh", state="registered")
THEIRS = AdapterStatus(name="ft:tiny:bob:x:abcdefgh", state="registered")


class Stamp:
    def __init__(self, app, word):
        self._app, self._word = app, word

    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {}).setdefault("stamps", []).append(self._word)
        await self._app(scope, receive, send)


def router():
    made = APIRouter()

    @made.get("/v1/files")
    async def files(http: Request):
        caller = caller_of(http)
        return {
            "shelf": http.app.state.shelf,
            "tenant": caller.tenant,
            "admin": caller.is_admin,
            "train": caller.may_train,
            "stamps": http.state.stamps,
        }

    @made.delete("/v1/models/{name:path}")
    async def delete(http: Request, name: str):
        return {"id": name, "deleted": True}

    @made.post("/v1/files")
    async def refuse():
        raise DataError("x.jsonl, line 1: not JSON")

    return made


async def by_cookie(call):
    if call.cookies.get("who") == "alice":
        return Caller(tenant="alice", adapters=())
    return None


def extension(**fields):
    return Extension(
        routers=(router(),),
        state={"shelf": 7},
        middleware=(Middleware(Stamp, word="outer"), Middleware(Stamp, word="inner")),
        mounts={"/studio/static": PlainTextResponse("page")},
        open_paths=frozenset({"/studio/", "/door"}),
        session=by_cookie,
        **fields,
    )


@pytest.fixture
def call(make_engine):
    def call(method, path, *, settings=OPEN, more=(), adapters=(OURS, THEIRS), **options):
        async def run():
            app = create_app(make_engine(adapters=adapters), settings, [extension(), *more])
            transport = httpx.ASGITransport(app=app)
            url = "http://localhost:8000"
            async with httpx.AsyncClient(transport=transport, base_url=url) as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return call


def test_routes_find_their_objects_their_caller_and_are_surrounded_in_order(call):
    assert call("GET", "/v1/files").json() == {
        "shelf": 7,
        "tenant": "default",
        "admin": False,
        "train": True,
        "stamps": ["outer", "inner"],
    }
    assert call("HEAD", "/v1/files").status_code == 200
    assert call("DELETE", "/v1/models/ft:a:b:c:d").json()["deleted"] is True
    assert call("GET", f"/v1/models/{OURS.name}").json()["id"] == OURS.name


def test_errors_of_its_routes_have_the_servers_shape(call):
    response = call("POST", "/v1/files")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_file"


def test_its_routes_need_a_key_and_its_open_paths_none(call):
    assert call("GET", "/v1/files", settings=KEYED).status_code == 401
    assert call("GET", "/v1/files", settings=KEYED, headers=SECRET).json()["train"] is True
    assert call("GET", "/studio/static/app.js", settings=KEYED).text == "page"
    for path in ("/studio", "/door/x", "/doors", "/x/studio/", "/v1/models"):
        assert call("GET", path, settings=KEYED).status_code == 401
    assert call("GET", "/door", settings=KEYED).status_code == 404


def test_a_cookie_stands_for_a_caller_unless_a_key_is_shown(call):
    cookie = {"Cookie": "who=alice"}
    for settings in (HttpSettings(), KEYED):
        shown = call("GET", "/v1/files", settings=settings, headers=cookie).json()
        assert (shown["tenant"], shown["admin"], shown["train"]) == ("alice", False, False)
    assert call("GET", "/v1/files", settings=KEYED, headers={**cookie, **SECRET}).json()["admin"]
    wrong = {**cookie, "Authorization": "Bearer no"}
    assert call("GET", "/v1/files", settings=KEYED, headers=wrong).status_code == 401
    other = {"Cookie": "who=mallory"}
    assert call("GET", "/v1/files", settings=KEYED, headers=other).status_code == 401


def test_a_tenant_sees_its_own_models_and_those_it_was_granted(call):
    cookie = {"Cookie": "who=alice"}

    def seen(**options):
        models = call("GET", "/v1/models", headers=cookie, **options).json()["data"]
        return [model["id"] for model in models if model["kind"] != "base"]

    assert seen() == [OURS.name]
    assert call("GET", f"/v1/models/{THEIRS.name}", headers=cookie).status_code == 404
    grants = {"alice": frozenset({THEIRS.name})}
    granting = Extension(granted=lambda tenant: grants.get(tenant, frozenset()))
    assert seen(more=(granting,)) == [OURS.name, THEIRS.name]
    shown = call("GET", f"/v1/models/{THEIRS.name}", headers=cookie, more=(granting,))
    assert shown.status_code == 200


def test_a_second_name_of_a_model_opens_it_to_no_one_else(call, tmp_path, capsys):
    """Whatever patterns a tenant has: a name that another gives its own model is not in them."""
    pet = AdapterStatus(name="pet", state="registered", alias_of=OURS.name)
    poet = AdapterStatus(name="poet", state="registered")
    keys = key_maker(tmp_path / "keys.yaml", capsys)
    grants = Extension(granted=lambda tenant: frozenset({"pet"} if tenant == "alice" else ()))
    settings = HttpSettings(keys=keys.path)
    tenants = {
        name: keys(name, "--adapter", "poet", "--adapter", "pe*") for name in ("alice", "bob")
    }

    def asked(tenant, method, path, **options):
        options["headers"] = {"Authorization": f"Bearer {tenants[tenant]}"}
        options |= {"settings": settings, "more": (grants,), "adapters": (OURS, pet, poet)}
        return call(method, path, **options)

    def listed(tenant):
        return [model["id"] for model in asked(tenant, "GET", "/v1/models").json()["data"][1:]]

    assert listed("alice") == [OURS.name, "pet", "poet"]
    assert listed("bob") == ["poet"]
    for model in ("pet", "pet:0.5+poet:0.5"):
        question = {"model": model, "prompt": "a"}
        assert asked("alice", "POST", "/v1/completions", json=question).status_code == 200
        assert asked("alice", "GET", f"/v1/models/{model}").status_code == 200
        for refused in (
            asked("bob", "POST", "/v1/completions", json=question),
            asked("bob", "GET", f"/v1/models/{model}"),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                404,
                "model_not_found",
            )
            assert "alice" not in refused.text


def test_lives_are_entered_in_order_and_left_in_reverse(make_engine):
    told = []

    def life(name):
        @asynccontextmanager
        async def lifespan(app):
            told.append(f"{name} begins with {app.state.shelf}")
            yield
            told.append(f"{name} ends")

        return lifespan

    async def run():
        parts = [extension(lifespan=life("one")), Extension(lifespan=life("two"))]
        app = create_app(make_engine(), HttpSettings(), parts)
        async with app.router.lifespan_context(app):
            told.append("serving")

    asyncio.run(run())
    assert told == ["one begins with 7", "two begins with 7", "serving", "two ends", "one ends"]
