"""Keys of tenants over HTTP: 401, 403, names that do not exist for others, tenant and priority."""

from dataclasses import replace

import pytest
from commands.keys import key_maker

from gossamer.cli.main import main
from gossamer.errors import OverloadedError, QuotaError
from gossamer.serving.core.stats import AdapterStatus, TenantStats
from gossamer.serving.http.settings import HttpSettings


@pytest.fixture
def keys(tmp_path, capsys):
    """A key file and a function that adds a key to it."""
    return key_maker(tmp_path / "keys.yaml", capsys)


@pytest.fixture
def call(make_engine, ask, keys):
    engine = make_engine()

    def call(key, method, path, **options):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        settings = HttpSettings(keys=keys.path)
        return ask(engine, method, path, settings=settings, headers=headers, **options)

    call.engine = engine
    return call


def body(model="tiny", **fields):
    return {"model": model, "prompt": "x", "max_tokens": 2, **fields}


@pytest.mark.parametrize("key", [None, "gsm_00000000_" + "x" * 43, "nonsense"])
def test_without_a_valid_key_nothing_but_health_is_answered(call, keys, key):
    keys("alice")
    for method, path in [("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/metrics")]:
        reply = call(key, method, path)
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert call(key, "GET", "/health").status_code == 200
    assert not call.engine.submitted


def test_requests_carry_tenant_and_priority(call, keys):
    key = keys("alice", "--adapter", "*")
    reply = call(key, "POST", "/v1/completions", json=body("pirate", priority=-3))
    assert reply.status_code == 200
    (request,) = call.engine.submitted
    assert (request.tenant, request.priority) == ("alice", -3)


@pytest.mark.parametrize("priority", [1.5, "high", 1001, -1001])
def test_a_priority_out_of_range_is_refused(call, keys, priority):
    reply = call(keys("alice"), "POST", "/v1/completions", json=body(priority=priority))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "priority"


def test_a_tenant_sees_and_names_only_its_own_adapters(call, keys):
    key = keys("alice", "--adapter", "poet", "--adapter", "team-*")
    names = [model["id"] for model in call(key, "GET", "/v1/models").json()["data"]]
    assert names == ["tiny", "poet"]
    assert call(key, "GET", "/v1/models").json()["refused"] == []
    assert call(key, "GET", "/v1/models/poet").status_code == 200
    assert call(key, "POST", "/v1/completions", json=body("poet")).status_code == 200
    assert call(key, "POST", "/v1/completions", json=body("tiny")).status_code == 200
    for path, fields in [
        ("/v1/completions", body("pirate")),
        ("/v1/completions", body("poet+pirate")),
        ("/v1/completions", body("team-x")),
        (
            "/v1/chat/completions",
            {"model": "pirate", "messages": [{"role": "user", "content": "x"}]},
        ),
    ]:
        reply = call(key, "POST", path, json=fields)
        assert reply.status_code == 404, fields
        message = reply.json()["error"]["message"]
        # Not even a suggestion tells of what others have.
        asked = next(part for part in fields["model"].split("+") if part != "poet")
        assert "'pirate'" not in message.replace(f"unknown model '{asked}'", "")
        assert "broken" not in message
    for name in ("pirate", "poet+pirate", "poet:0.5+pirate:0.5"):
        reply = call(key, "GET", f"/v1/models/{name}")
        assert reply.status_code == 404
    assert len(call.engine.submitted) == 2


def test_blanks_and_weights_do_not_pass_the_access_list(make_engine, ask, keys):
    """What a list allows is judged by the adapters that the engine would take."""
    private = AdapterStatus(name="_private", state="registered")
    poet = AdapterStatus(name="poet", state="registered")
    engine = make_engine(adapters=(private, poet))
    headers = {"Authorization": f"Bearer {keys('bob', '--adapter', '[!_]*')}"}
    for model in (
        " _private:1",
        "_private:1",
        "poet + _private",
        "poet:1+ _private :1",
        "\t_private",
    ):
        reply = ask(
            engine,
            "POST",
            "/v1/completions",
            settings=HttpSettings(keys=keys.path),
            headers=headers,
            json=body(model),
        )
        assert reply.status_code == 404, model
    assert not engine.submitted


def test_a_new_tenant_sees_the_base_model_only(call, keys):
    key = keys("alice")
    assert [model["id"] for model in call(key, "GET", "/v1/models").json()["data"]] == ["tiny"]
    assert call(key, "POST", "/v1/completions", json=body("pirate")).status_code == 404
    assert call(key, "POST", "/v1/completions", json=body("tiny")).status_code == 200


def test_metrics_need_an_administrator(call, keys):
    reply = call(keys("alice"), "GET", "/metrics")
    assert reply.status_code == 403
    assert reply.json()["error"]["type"] == "permission_error"
    assert "gossamer keys add NAME --admin" in reply.json()["error"]["message"]
    assert call(keys("root", "--admin"), "GET", "/metrics").status_code == 200


def test_a_revoked_key_is_refused_at_the_next_call(call, keys, capsys):
    key = keys("alice")
    assert call(key, "GET", "/v1/models").status_code == 200
    assert main(["keys", "revoke", key, "--file", str(keys.path)]) == 0
    assert call(key, "GET", "/v1/models").status_code == 401


def test_keys_of_both_kinds_may_be_used_together(make_engine, ask, keys):
    engine, key = make_engine(), keys("alice")
    settings = HttpSettings(keys=keys.path, api_keys=("operator",))
    for text in ("operator", key):
        headers = {"Authorization": f"Bearer {text}"}
        ask(engine, "POST", "/v1/completions", settings=settings, headers=headers, json=body())
    assert [request.tenant for request in engine.submitted] == ["default", "alice"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(QuotaError, "quota_exceeded"), (OverloadedError, "overloaded")],
)
def test_refusals_say_when_to_come_back(make_engine, ask, error, code):
    engine = make_engine(refuse=lambda request: error("too much", retry_after=6.2))
    reply = ask(engine, "POST", "/v1/completions", json=body())
    assert reply.status_code == 429
    assert reply.headers["Retry-After"] == "7"
    assert reply.json()["error"]["code"] == code


def test_a_refusal_that_comes_later_is_a_status_too_even_for_a_stream(make_engine, ask):
    error = OverloadedError("the first token would come too late", retry_after=3)
    engine = make_engine(script=lambda request: [error])
    for stream in (False, True):
        reply = ask(engine, "POST", "/v1/completions", json=body(stream=stream))
        assert reply.status_code == 429
        assert reply.headers["Retry-After"] == "3"


def test_metrics_are_counted_by_tenant(make_engine, ask):
    engine = make_engine()
    tenant = TenantStats(
        name="alice",
        num_waiting=2,
        num_running=1,
        prompt_tokens=30,
        generated_tokens=40,
        first_tokens=5,
        in_time=4,
        satisfaction=3.5,
        refused={"queue": 0, "quota": 6, "deadline": 7},
    )
    stats = engine.stats()
    engine.stats = lambda: replace(stats, tenants=(tenant,))
    text = ask(engine, "GET", "/metrics").text
    for line in (
        'gossamer_tenant_requests_waiting{tenant="alice"} 2.0',
        'gossamer_tenant_generated_tokens_total{tenant="alice"} 40.0',
        'gossamer_tenant_first_tokens_in_time_total{tenant="alice"} 4.0',
        'gossamer_tenant_satisfaction_total{tenant="alice"} 3.5',
        'gossamer_tenant_requests_refused_total{reason="deadline",tenant="alice"} 7.0',
    ):
        assert line in text
