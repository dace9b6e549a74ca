"""Two replicas and an ingress's engine in one process: answers, new versions, errors, HTTP."""

import os
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from engine_case import ask, ask_tokens, check_idle, slow_down, start

from gossamer.adapters.inspect import inspect
from gossamer.cluster.published.publish import publish_adapter
from gossamer.cluster.replicas.wire import figures_of
from gossamer.errors import AdapterFormatError, AdapterReadError
from gossamer.serving.core.messages import Failed, Finished
from gossamer.serving.http.app import create_app
from gossamer.serving.http.settings import HttpSettings

from tiny import make_lora

NAMES = [None, "a0", "a1", "a2", "a3", "a0:0.5+a1:-1"]


@pytest.fixture(scope="module")
def alone(family):
    """One engine on the same adapters."""
    engine = start(family / "base", (family / "runs",))
    yield engine
    engine.shutdown()


@contextmanager
def published(cluster, family, name, seed):
    """An adapter that is published meanwhile; its folder, to be published again."""
    folder = make_lora(family / "more" / f"{name}-{seed}", family / "base", rank=4, seed=seed)
    publish_adapter(folder, cluster.catalog, cluster.store, name)
    yield folder
    cluster.catalog.withdraw(name)


def test_answers_are_those_of_one_engine(cluster, alone):
    asked = [(name, (5, 6, 7 + number)) for number in range(5) for name in NAMES]
    collectors = [ask(cluster.engine, prompt, name) for name, prompt in asked]
    for collector in collectors:
        assert collector.wait().finish_reason == "length"
    expected = [ask_tokens(alone, name, prompt=prompt) for name, prompt in asked]
    assert [collector.tokens for collector in collectors] == expected
    assert len({rank for _, rank in cluster.local.taken}) == 2


def test_each_adapter_stays_where_it_is(cluster):
    cluster.local.taken.clear()
    for _ in range(3):
        for name in NAMES[1:5]:
            ask(cluster.engine, adapter=name).wait()
    places = {}
    for name, rank in cluster.local.taken:
        places.setdefault(name, set()).add(rank)
    assert all(len(ranks) == 1 for ranks in places.values())


def test_a_new_version_is_everyones_at_once_and_running_requests_keep_the_former(
    cluster, family, tmp_path
):
    former_folder = make_lora(tmp_path / "former", family / "base", rank=4, seed=50)
    later_folder = make_lora(tmp_path / "later", family / "base", rank=4, seed=51)
    reference = start(family / "base", (tmp_path,))
    long = {"max_tokens": 60, "prompt": (9, 8, 7)}
    want = {name: ask_tokens(reference, name, **long) for name in ("former", "later")}
    reference.shutdown()
    assert want["former"] != want["later"]
    publish_adapter(former_folder, cluster.catalog, cluster.store, "tone")
    before = [ask(cluster.engine, adapter="tone", **long) for _ in range(6)]
    publish_adapter(later_folder, cluster.catalog, cluster.store, "tone")
    after = [ask(cluster.engine, adapter="tone", **long) for _ in range(6)]
    for collector in (*before, *after):
        assert isinstance(collector.wait(), Finished)
    assert [each.tokens for each in before] == [want["former"]] * 6
    assert [each.tokens for each in after] == [want["later"]] * 6
    cluster.catalog.withdraw("tone")


def test_versions_change_under_load_and_every_answer_is_of_the_one_that_was_meant(
    cluster, family, tmp_path
):
    folders = [make_lora(tmp_path / f"v{n}", family / "base", rank=4, seed=60 + n) for n in (0, 1)]
    reference = start(family / "base", (tmp_path,))
    want = [ask_tokens(reference, f"v{n}", max_tokens=6) for n in (0, 1)]
    reference.shutdown()
    publish_adapter(folders[0], cluster.catalog, cluster.store, "live")
    wrong, counts = [], [0, 0]
    now, lock = [0], threading.Lock()

    def client():
        for _ in range(12):
            with lock:  # what is published and what is asked for are known together
                version = now[0]
                collector = ask(cluster.engine, adapter="live", max_tokens=6)
            collector.wait()
            counts[version] += 1
            if collector.tokens != want[version]:
                wrong.append((version, collector.tokens))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for each in clients:
        each.start()
    for turn in range(8):
        time.sleep(0.05)
        with lock:
            now[0] = (turn + 1) % 2
            publish_adapter(folders[now[0]], cluster.catalog, cluster.store, "live")
    for each in clients:
        each.join()
    assert wrong == []
    assert min(counts) > 0
    cluster.catalog.withdraw("live")


def test_a_prompt_computed_with_the_former_version_is_not_found_by_the_new_one(
    cluster, family, tmp_path
):
    prompt = tuple(range(3, 45))
    folders = [make_lora(tmp_path / f"p{n}", family / "base", rank=4, seed=70 + n) for n in (0, 1)]
    cached = []
    for folder in (folders[0], folders[0], folders[1]):
        publish_adapter(folder, cluster.catalog, cluster.store, "cached")
        cached.append(ask(cluster.engine, prompt, "cached").wait().cached_tokens)
    assert cached == [0, 32, 0]
    cluster.catalog.withdraw("cached")


def test_a_client_that_leaves_frees_what_its_request_held(cluster):
    for engine in cluster.engines:
        slow_down(engine)
    collectors = [ask(cluster.engine, adapter=name, max_tokens=400) for name in NAMES]
    for collector in collectors:
        while not collector.tokens:
            time.sleep(0.01)
    for collector in collectors:
        cluster.engine.cancel(collector.id)
    for collector in collectors:
        assert collector.wait().finish_reason == "cancelled"
    for engine in cluster.engines:
        check_idle(engine)
    assert cluster.engine.num_open == 0


def test_who_leaves_while_an_adapter_is_fetched_leaves_no_hold_on_the_cache(
    cluster, family, monkeypatch
):
    """What is held is never removed from the disk, however full that is."""
    is_asked, goes_on = threading.Event(), threading.Event()
    fetch = type(cluster.store).fetch

    def slow_fetch(store, place, into):
        is_asked.set()
        assert goes_on.wait(20)
        fetch(store, place, into)

    monkeypatch.setattr(type(cluster.store), "fetch", slow_fetch)
    with published(cluster, family, "slow", 82) as folder:
        digest = inspect(folder).digest
        collector = ask(cluster.engine, adapter="slow")
        assert is_asked.wait(20)
        cluster.engine.cancel(collector.id)
        assert collector.wait().finish_reason == "cancelled"
        goes_on.set()
        wait_until(lambda: any((each.folder / digest).exists() for each in cluster.caches))
    [place] = [each.folder / digest for each in cluster.caches if (each.folder / digest).exists()]

    def is_held():
        """Replicas note now and then that what they hold is in use."""
        os.utime(place, (0, 0))
        cluster.engine.figures()
        return place.stat().st_mtime > 0

    wait_until(lambda: not is_held())


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.01)


def test_errors_name_the_adapter_and_no_digest(cluster, family):
    with published(cluster, family, "torn", 80) as folder:
        digest = inspect(folder).digest
        weights = cluster.shared / "adapters" / "torn" / digest / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-64])
        final = ask(cluster.engine, adapter="torn").wait()
        assert isinstance(final, Failed)
        assert isinstance(final.error, AdapterFormatError)
        assert "torn" in str(final.error)
        assert digest not in str(final.error)


def test_a_store_that_lost_an_adapter_is_to_be_tried_again(cluster, family):
    with published(cluster, family, "away", 81):
        shutil.rmtree(cluster.shared / "adapters" / "away")
        final = ask(cluster.engine, adapter="away").wait()
        assert isinstance(final.error, AdapterReadError)
        assert "try again" in str(final.error)


def test_the_whole_http_interface_answers_over_replicas(cluster, alone):
    from starlette.testclient import TestClient

    body = {"prompt": "Once", "max_tokens": 8, "temperature": 0}
    answers = []
    for engine in (cluster.engine, alone):
        app = create_app(engine, HttpSettings())
        with TestClient(app, base_url="http://localhost") as client:
            replies = [
                client.post("/v1/completions", json={**body, "model": name or engine.model_name})
                for name in NAMES
            ]
            answers.append([reply.json()["choices"] for reply in replies])
            with client.stream(
                "POST", "/v1/completions", json={**body, "model": "a0", "stream": True}
            ) as stream:
                lines = [line for line in stream.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            models = [each["id"] for each in client.get("/v1/models").json()["data"]]
            assert models == [engine.model_name, "a0", "a1", "a2", "a3"]
            unknown = client.post("/v1/completions", json={**body, "model": "a9"})
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (
                404,
                "model_not_found",
            )
            assert client.get("/health").status_code == 200
            assert "gossamer_requests_running 0.0" in client.get("/metrics").text
    assert answers[0] == answers[1]


def test_figures_tell_of_both_replicas(cluster):
    figures = cluster.engine.figures()
    assert [each["rank"] for each in figures] == [0, 1]
    assert all(each["healthy"] for each in figures)
    assert sum(each["cache_fetches"] for each in figures) >= 4
    stats = cluster.engine.stats()
    assert stats.generated_tokens == sum(each["generated_tokens"] for each in figures) > 0


def test_what_requests_use_is_told_by_the_names_that_clients_know(cluster):
    """Replicas know adapters by their digests."""
    for engine in cluster.engines:
        slow_down(engine)
    collectors = [ask(cluster.engine, adapter=name, max_tokens=150) for name in NAMES]

    def told():
        stats = cluster.engine.stats()
        return stats.running_adapters | stats.waiting_adapters

    wait_until(lambda: told() == {"a0", "a1", "a2", "a3"})
    for collector in collectors:
        cluster.engine.cancel(collector.id)
    for engine in cluster.engines:
        check_idle(engine)
    assert told() == frozenset()


def test_no_more_names_are_told_than_a_label_takes(cluster):
    names = {f"digest-{n}": [f"adapter-{n:04}"] for n in range(3000)}
    stats = replace(cluster.engines[0].stats(), waiting_adapters=frozenset(names))
    assert len(figures_of(stats, names)["waiting_adapters"]) == 256


def test_a_replica_that_has_stopped_hands_its_requests_to_the_other(cluster):
    cluster.engines[1].shutdown()
    cluster.local.taken.clear()
    for name in NAMES:
        assert isinstance(ask(cluster.engine, adapter=name).wait(), Finished)
    assert {rank for _, rank in cluster.local.taken} == {0, 1}, "it was asked, and refused"
    assert [each["healthy"] for each in cluster.engine.figures()] == [True, False]
