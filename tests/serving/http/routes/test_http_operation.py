"""/v1/models, /health, /metrics, keys and origins."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gossamer.errors import SettingError
from gossamer.serving.http.settings import HttpSettings

BODY = {"model": "tiny", "prompt": "hello"}


def test_models_lists_base_and_adapters(make_engine, ask):
    listing = ask(make_engine(), "GET", "/v1/models").json()
    assert listing["object"] == "list"
    assert [model["id"] for model in listing["data"]] == ["tiny", "pirate", "poet"]
    base, pirate, poet = listing["data"]
    assert (base["kind"], base["object"], base["max_context"]) == ("base", "model", 256)
    assert pirate == {
        "id": "pirate",
        "object": "model",
        "created": 7,
        "owned_by": "gossamer",
        "kind": "low-rank",
        "state": "resident",
        "parent": "tiny",
        "rank": 8,
        "num_bytes": 64,
        "digest": "abc",
        "max_context": 256,
        "max_model_len": 256,
    }
    assert (poet["state"], poet["rank"]) == ("registered", None)
    assert listing["refused"] == [{"id": "broken", "problem": "weights hold NaN"}]


def test_one_model(make_engine, ask):
    engine = make_engine()
    assert ask(engine, "GET", "/v1/models/tiny").json()["kind"] == "base"
    assert ask(engine, "GET", "/v1/models/pirate").json()["rank"] == 8
    unknown = ask(engine, "GET", "/v1/models/pirat")
    assert unknown.status_code == 404
    assert "'pirate'" in unknown.json()["error"]["message"]
    refused = ask(engine, "GET", "/v1/models/broken")
    assert refused.status_code == 422
    assert "weights hold NaN" in refused.json()["error"]["message"]


def test_a_mixture_is_a_model_too(make_engine, ask):
    engine = make_engine()
    found = ask(engine, "GET", "/v1/models/pirate:0.7+poet:0.3")
    assert found.status_code == 200
    assert found.json()["id"] == "pirate:0.7+poet:0.3"
    for name, status, words in [
        ("pirate:0.7+poat:0.3", 404, "unknown model 'poat'"),
        ("pirate+broken", 422, "weights hold NaN"),
        ("pirate+tiny", 404, "'tiny' is the base model"),
        ("pirate:x", 400, "'x' is not a weight"),
    ]:
        reply = ask(engine, "GET", f"/v1/models/{name}")
        assert (reply.status_code, words in reply.json()["error"]["message"]) == (status, True)


def test_the_base_model_is_among_the_known_names(make_engine, ask):
    engine = make_engine(adapters=())
    for method, path, options in [
        ("GET", "/v1/models/gpt-4o", {}),
        ("POST", "/v1/completions", {"json": {**BODY, "model": "gpt-4o"}}),
    ]:
        message = ask(engine, method, path, **options).json()["error"]["message"]
        assert message == "unknown model 'gpt-4o'; known: tiny"


def test_a_model_name_may_hold_a_slash(make_engine, ask):
    engine = make_engine()
    engine.model_name = "owner/name"
    assert ask(engine, "GET", "/v1/models/owner/name").json()["id"] == "owner/name"
    assert ask(engine, "GET", "/v1/models/owner%2Fname").json()["id"] == "owner/name"


def test_health_follows_the_engine(make_engine, ask):
    engine = make_engine()
    assert ask(engine, "GET", "/health").status_code == 200
    engine.shutdown()
    stopped = ask(engine, "GET", "/health")
    assert (stopped.status_code, stopped.json()) == (503, {"status": "stopped"})


def test_version(make_engine, ask):
    from gossamer import __version__

    assert ask(make_engine(), "GET", "/version").json() == {"version": __version__}


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_of_engine_and_calls(make_engine):
    from starlette.testclient import TestClient

    from gossamer.serving.http.app import create_app

    engine = make_engine()
    with TestClient(create_app(engine, HttpSettings()), base_url="http://localhost") as client:
        client.post("/v1/completions", json={**BODY, "n": 2})
        client.post("/v1/completions", json={**BODY, "temperature": 9})
        client.post("/nonsense/1")
        client.post("/nonsense/2")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = samples(response.text)
    assert found["gossamer_blocks_free", ()] == 60
    assert found["gossamer_engine_healthy", ()] == 1
    assert found["gossamer_adapter_loads_total", ()] == 2
    assert found["gossamer_adapters", (("state", "resident"),)] == 1
    assert found["gossamer_adapters", (("state", "refused"),)] == 1
    assert found["gossamer_adapters", (("state", "loading"),)] == 0
    assert found["gossamer_adapter_resident_bytes", (("adapter", "pirate"),)] == 64
    assert found["gossamer_requests_finished_total", (("reason", "stop"),)] == 2
    # Two choices of four tokens.
    assert found["gossamer_time_to_first_token_seconds_count", ()] == 2
    assert found["gossamer_time_per_output_token_seconds_count", ()] == 6
    assert found["gossamer_request_seconds_count", ()] == 2
    route = "/v1/completions"
    for status in ("200", "400"):
        labels = (("method", "POST"), ("route", route), ("status", status))
        assert found["gossamer_http_requests_total", labels] == 1
    # Addresses that nobody serves share one label: they must not fill the memory.
    labels = (("method", "any"), ("route", "unmatched"), ("status", "404"))
    assert found["gossamer_http_requests_total", labels] == 2


def test_metrics_name_the_merged_adapter_while_there_is_one(make_engine, ask):
    engine = make_engine()
    assert "gossamer_adapter_merged{" not in ask(engine, "GET", "/metrics").text
    stats = replace(engine.stats(), merged_adapter="pirate", adapter_merges=3, merged_steps=40)
    engine.stats = lambda: stats
    found = samples(ask(engine, "GET", "/metrics").text)
    assert found["gossamer_adapter_merged", (("adapter", "pirate"),)] == 1
    assert found["gossamer_adapter_merges_total", ()] == 3
    assert found["gossamer_steps_merged_total", ()] == 40


def test_two_apps_have_metrics_of_their_own(make_engine, ask):
    for _ in range(2):
        assert ask(make_engine(), "GET", "/metrics").status_code == 200


KEYS = HttpSettings(api_keys=("first-key", "zwölf"))


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Bearer first-key", 200),
        (b"bearer  first-key", 200),
        ("Bearer zwölf".encode(), 200),
        (b"Bearer first-ke", 401),
        (b"Bearer first-keyy", 401),
        (b"Bearer ", 401),
        (b"Basic first-key", 401),
        (b"first-key", 401),
        (None, 401),
    ],
)
def test_key_is_asked_for(make_engine, ask, header, status):
    headers = {} if header is None else {"Authorization": header}
    engine = make_engine()
    response = ask(engine, "POST", "/v1/completions", json=BODY, headers=headers, settings=KEYS)
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert engine.submitted == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health", 200), ("/metrics", 401), ("/v1/models", 401), ("/nonsense", 401)],
)
def test_only_health_is_open(make_engine, ask, path, status):
    assert ask(make_engine(), "GET", path, settings=KEYS).status_code == status


def test_empty_key_is_refused():
    with pytest.raises(SettingError, match="API key is empty"):
        HttpSettings.parse({"api_keys": ("",)})


PREFLIGHT = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}


def test_no_origin_is_allowed_by_default(make_engine, ask):
    response = ask(make_engine(), "GET", "/health", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in response.headers
    preflight = ask(make_engine(), "OPTIONS", "/v1/completions", headers=PREFLIGHT)
    assert preflight.status_code == 405


def test_a_named_origin_is_allowed_and_needs_no_key_to_ask(make_engine, ask):
    settings = HttpSettings(api_keys=("k",), cors_origins=("https://a.example",))
    allowed = ask(make_engine(), "OPTIONS", "/v1/completions", headers=PREFLIGHT, settings=settings)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    refused = ask(
        make_engine(), "POST", "/v1/completions", json=BODY, settings=settings,
        headers={"Origin": "https://a.example"},
    )  # fmt: skip
    # The page can read why.
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://a.example"
    other = ask(
        make_engine(), "OPTIONS", "/v1/completions", settings=settings,
        headers={**PREFLIGHT, "Origin": "https://b.example"},
    )  # fmt: skip
    assert "access-control-allow-origin" not in other.headers
