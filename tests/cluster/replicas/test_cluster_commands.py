"""`gossamer cluster serve` and `status` without Ray: what is refused, and what is shown."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType

import pytest

from gossamer.cli.main import main
from gossamer.cluster.replicas.app import from_arguments, most_calls, with_absolute_paths
from gossamer.cluster.replicas.settings import ClusterSettings
from gossamer.cluster.replicas.wire import FIGURES, ReplicaFailure
from gossamer.errors import (
    JobError,
    OverloadedError,
    RequestError,
    ServingError,
    SettingError,
    UnknownModelError,
)
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.settings import ServeSettings

ONE = {
    **dict.fromkeys(FIGURES, 0),
    "rank": 0,
    "healthy": True,
    "num_running": 3,
    "blocks_total": 100,
    "blocks_free": 30,
    "blocks_cached": 20,
    "adapters_resident": 17,
    "generated_tokens": 1234,
    "adapter_hits": {"resident": 75, "host": 20, "disk": 5},
    "finished": {},
    "cache_fetches": 9,
    "calls_from_here": 4,
}


@pytest.fixture(autouse=True)
def _token(monkeypatch):
    """Else the command would write one into the environment of these tests."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")


@pytest.fixture
def answer():
    """A server that answers everything with what is put into the list: status and body."""
    given = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = given[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield given, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_status_has_a_line_for_each_replica(answer, capsys):
    given, url = answer
    replicas = [ONE, {**ONE, "rank": 1, "healthy": False, "adapter_hits": {}}]
    body = {"model": "base", "adapters": 100_000, "open_requests": 7, "replicas": replicas}
    given.append((200, body))
    assert main(["cluster", "status", "--url", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "base: 2 replicas, 100,000 adapters, 7 requests through this ingress"
    assert lines[3].split() == [
        "0",
        "healthy",
        "3",
        "0",
        "4",
        "17",
        "75",
        "20",
        "0",
        "9",
        "1234",
        "50",
    ]
    assert lines[4].split()[:2] == ["1", "stopped"]


def test_status_shows_how_many_adapters_were_loaded_ahead_and_may_follow(answer, capsys):
    given, url = answer
    replicas = [{**ONE, "warmed": 8, "to_warm": 32}, {**ONE, "rank": 1, "warmed": 40, "to_warm": 0}]
    body = {"model": "base", "adapters": 5, "open_requests": 0, "replicas": replicas}
    given.append((200, body))
    assert main(["cluster", "status", "--url", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "8 of 40" in lines[3]
    assert "40" in lines[4].split()
    assert "of" not in lines[4].split()


def test_status_of_one_server_says_so(answer, capsys):
    given, url = answer
    given.append((404, {"error": {"message": "no such route: GET /v1/cluster"}}))
    assert main(["cluster", "status", "--url", url]) == 1
    assert "is one server, not a cluster" in capsys.readouterr().err


def test_status_shows_the_servers_own_refusal(answer, capsys):
    given, url = answer
    given.append((403, {"error": {"message": "/v1/cluster needs an administrator's key"}}))
    assert main(["cluster", "status", "--url", url]) == 1
    assert "needs an administrator's key" in capsys.readouterr().err


def test_status_of_nothing_is_one_line(capsys):
    assert main(["cluster", "status", "--url", "http://127.0.0.1:9"]) == 1
    assert "no answer from" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:80x", "http://[::1"])
def test_status_of_what_is_no_address_is_one_line(url, capsys):
    assert main(["cluster", "status", "--url", url]) == 2
    error = capsys.readouterr().err
    assert f"--url {url}" in error
    assert error.count("\n") == 1


def test_without_ray_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: name != "ray")
    assert main(["cluster", "serve", "tiny"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs ray; in the clone of Gossamer: pip install -e '.[cluster]'" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--port 0", "--port 0"),
        ("--replicas 3 --max-replicas 2", "--max-replicas 2 is below 'replicas' 3"),
        ("--replicas 0", "--replicas = 0: must be at least 1"),
        ("--store s3://bucket", "--store needs --catalog"),
        ("--catalog postgresql://me@host/x", "--store is required"),
        ("--catalog catalog.db", "is no URL"),
        ("--catalog postgresql://me@host:port/x", "is no URL"),
        ("--catalog sqlite+foo:////shared/x.db", "SQLite has one driver"),
        ("--adapters runs --catalog sqlite:////shared/x.db", "a name would have two meanings"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_ray_starts(words, message, capsys, monkeypatch):
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: True)
    assert main(["cluster", "serve", "tiny", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_ray_that_could_obey_anyone_is_not_started(capsys, monkeypatch):
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: True)
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    assert main(["cluster", "serve", "tiny"]) == 2
    assert "without RAY_AUTH_MODE=token" in capsys.readouterr().err


def test_a_ray_of_the_users_is_left_as_it_is(capsys, monkeypatch):
    """The token would be asked for first: what is refused here comes after it."""
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: True)
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    words = ["cluster", "serve", "tiny", "--ray-address", "auto", "--store", "s3://bucket"]
    assert main(words) == 2
    assert "--store needs --catalog" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [("no-such-model", "no-such-model"), ("smollm2-135m --port 80000", "--port = 80000")],
)
def test_what_replicas_could_only_log_is_told_before_they_start(
    words, message, capsys, monkeypatch
):
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: True)
    monkeypatch.setattr("gossamer.cluster.replicas.app.make_application", lambda *given: None)
    assert main(["cluster", "serve", *words.split()]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_that_is_in_use_is_told_before_anything_starts(answer, capsys, monkeypatch):
    _, url = answer
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: True)
    monkeypatch.setattr("gossamer.basemodel.find.require_known", lambda name: None)
    monkeypatch.setattr("gossamer.cluster.replicas.app.make_application", lambda *given: None)
    assert main(["cluster", "serve", "tiny", "--port", url.rpartition(":")[2]]) == 1
    assert "is in use" in capsys.readouterr().err


def test_arguments_of_a_config_file_are_checked_by_name(monkeypatch):
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: True)
    with pytest.raises(SettingError, match="'servers' is none of serving, cluster and http"):
        from_arguments({"servers": {}})
    with pytest.raises(SettingError, match="did you mean 'replicas'"):
        from_arguments({"serving": {"model": "tiny"}, "cluster": {"replica": 2}})
    both = {"serving": {"model": "tiny", "adapters": ["runs"]}, "cluster": {"catalog": "x"}}
    with pytest.raises(SettingError, match="a name would have two meanings"):
        from_arguments(both)


def test_paths_are_the_same_in_another_working_folder(tmp_path, monkeypatch):
    for name in ("base", "runs", "shared"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    serving, cluster, http = with_absolute_paths(
        ServeSettings(model="base", adapters=("runs",)),
        ClusterSettings(catalog="sqlite:///shared/c.db", store="shared", cache="fetched"),
        HttpSettings(keys="keys.yaml", request_log="log.jsonl"),
    )
    monkeypatch.chdir("/")
    assert (serving.model, serving.adapters) == (str(tmp_path / "base"), (tmp_path / "runs",))
    assert cluster.catalog == f"sqlite:///{tmp_path}/shared/c.db"
    assert (cluster.store, cluster.cache) == (str(tmp_path / "shared"), tmp_path / "fetched")
    assert (http.keys, http.request_log) == (tmp_path / "keys.yaml", tmp_path / "log.jsonl")


def test_names_and_urls_are_no_paths():
    given = (
        ServeSettings(model="smollm2-135m"),
        ClusterSettings(store="s3://bucket", catalog="postgresql://me:secret@host/x"),
        HttpSettings(),
    )
    assert with_absolute_paths(*given) == given


@pytest.mark.parametrize(("running", "waiting"), [(None, 1024), (1000, 5), (1, 1)])
def test_an_engine_is_handed_more_than_it_takes(running, waiting):
    taken = (running or 256) + waiting
    settings = ServeSettings(model="x", max_running=running, max_waiting=waiting)
    assert most_calls(settings) > taken


@pytest.mark.parametrize("address", ["local", "", " local "])
def test_what_ray_would_start_by_itself_is_a_ray_of_our_own(address):
    assert ClusterSettings(ray_address=address).ray_address is None
    assert ClusterSettings(ray_address="auto").ray_address == "auto"


@pytest.mark.parametrize("address", ["local", ""])
def test_no_word_for_a_ray_of_our_own_starts_one_without_a_token(address, capsys, monkeypatch):
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: True)
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    assert main(["cluster", "serve", "tiny", "--ray-address", address]) == 2
    assert "without RAY_AUTH_MODE=token" in capsys.readouterr().err


def test_settings_have_room_for_one_replica():
    assert ClusterSettings(replicas=1, max_replicas=1).catalog is None


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError("full", retry_after=3.5),
        RequestError("bad", param="prompt"),
        UnknownModelError("who?"),
        JobError("no", code="gone", param="id"),
    ],
)
def test_errors_cross_as_what_they_are(error):
    crossed = ReplicaFailure.of("r", error, 2, {}).error()
    assert type(crossed) is type(error)
    assert str(crossed) == str(error)
    assert vars(crossed) == vars(error)


def test_an_error_of_an_unknown_class_is_one_of_serving():
    for kind in ("Exception", "os", "NoSuchError"):
        failure = ReplicaFailure(request_id="r", kind=kind, message="odd", rank=0)
        assert type(failure.error()) is ServingError
