"""Requests over several replicas without Ray: what is retried, what ends, and what is quota."""

import asyncio
import threading
import time

import pytest

from gossamer.cluster.placement.ledger import QuotaLeases, QuotaLedger
from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.replicas.names import CatalogNames
from gossamer.cluster.replicas.remote_engine import LostReplicaError, RemoteEngine
from gossamer.cluster.replicas.wire import FIGURES, ReplicaFacts, ReplicaFailure
from gossamer.errors import (
    AdapterReadError,
    CapacityError,
    EngineStoppedError,
    OverloadedError,
    QuotaError,
    RequestError,
    UnknownModelError,
)
from gossamer.serving.core.messages import Failed, Finished, Request, SamplingParams, Tokens
from gossamer.serving.core.tenants import TenantLimits
from gossamer.serving.core.validation import EngineLimits

FACTS = ReplicaFacts(
    model_name="base",
    special_tokens="prompts",
    max_context=100,
    limits=EngineLimits(max_context=100, vocab_size=50, block_tokens=16, block_bytes=1),
    num_blocks=10,
)
WAIT = 10


def tokens(call, *ids):
    return [Tokens(request_id=call.request.request_id, token_ids=ids, text="x" * len(ids))]


def finished(call):
    request_id = call.request.request_id
    return [
        Finished(request_id=request_id, finish_reason="stop", prompt_tokens=2, completion_tokens=2)
    ]


def failed(call, error, rank=0):
    return [ReplicaFailure.of(call.request.request_id, error, rank, {})]


class Script:
    """Stands for the replicas: each call gets the next of the written answers."""

    def __init__(self, *answers):
        self.answers, self.calls, self.closed = list(answers), [], 0

    async def call(self, call):
        self.calls.append(call)
        try:
            for step in self.answers.pop(0):
                await asyncio.sleep(0)
                if isinstance(step, Exception):
                    raise step
                if step == "wait":
                    await asyncio.Event().wait()
                yield step(call)
        finally:
            self.closed += 1

    def figures(self):
        one = {**dict.fromkeys(FIGURES, 1), "running_adapters": ["a"], "waiting_adapters": []}
        other = {**one, "running_adapters": ["b", "a"], "waiting_adapters": ["c"]}
        return [
            {**one, "rank": 1, "finished": {"stop": 2}, "adapter_hits": {"disk": 1}},
            {**other, "rank": 0, "finished": {"stop": 1, "length": 3}, "adapter_hits": {}},
        ]


@pytest.fixture
def loop():
    """An event loop on a thread of its own, as an ingress has."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def catalog(tmp_path):
    """A catalog with two adapters."""
    catalog = AdapterCatalog(f"sqlite:///{tmp_path}/catalog.db")
    for name, digest in (("poet", "a" * 64), ("pirate", "b" * 64)):
        place = f"adapters/{name}/{digest}"
        catalog.move(name, digest=digest, place=place, num_bytes=9, kind="low-rank", rank=4)
    return catalog


@pytest.fixture
def make_engine(loop, catalog):
    """An engine over replicas that answer as written."""
    engines = []

    def make(*answers, limits=None, clock=None):
        script = Script(*answers)
        ledger = QuotaLedger()
        quotas = QuotaLeases("here", lambda tenant: limits or TenantLimits(), ledger.lease)
        names = CatalogNames(catalog, "base", *([clock] if clock else []))
        engine = RemoteEngine(FACTS, None, names, script, quotas, loop)
        engines.append(engine)
        return engine, script

    yield make
    for engine in engines:
        engine.shutdown()


class Receiver:
    """Collects the events of one request."""

    def __init__(self):
        self.events, self.begun, self.done = [], threading.Event(), threading.Event()

    def __call__(self, event):
        self.events.append(event)
        self.begun.set()
        if not isinstance(event, Tokens):
            self.done.set()

    def final(self):
        assert self.done.wait(WAIT)
        assert [not isinstance(each, Tokens) for each in self.events].count(True) == 1
        return self.events[-1]

    @property
    def tokens(self):
        return [t for each in self.events if isinstance(each, Tokens) for t in each.token_ids]


def ask(engine, adapter=None, request_id="r", prompt=(1, 2), **sampling):
    receiver = Receiver()
    request = Request(
        request_id=request_id,
        prompt_token_ids=tuple(prompt),
        adapter=adapter,
        sampling=SamplingParams(**sampling),
    )
    found = engine.look_up(adapter).result(WAIT) if adapter else None
    engine.submit(request, receiver, found)
    return receiver


def good(*ids):
    return [lambda call: tokens(call, *ids), finished]


def test_serves_own_full_queue_is_the_refusal_of_a_full_server(make_engine):
    engine, script = make_engine([OverloadedError("too many wait", retry_after=1.0)], good(1))
    final = ask(engine).final()
    assert isinstance(final.error, OverloadedError)
    assert len(script.calls) == 1


def test_a_catalog_that_does_not_answer_holds_up_no_ledger(make_engine, loop, monkeypatch):
    monkeypatch.setattr("gossamer.cluster.replicas.remote_engine.REFRESH_SECONDS", 0.01)
    monkeypatch.setattr("gossamer.cluster.replicas.remote_engine.TELL_SECONDS", 0.01)
    has_come, refreshes = threading.Event(), threading.Semaphore(0)
    released = threading.Event()

    def wait(self):
        has_come.set()
        released.wait(WAIT)
        raise OSError("away")

    def refresh(self):
        refreshes.release()
        raise ValueError("a bug")

    engine, _ = make_engine()
    with monkeypatch.context() as patched:
        patched.setattr(CatalogNames, "tell_asked", wait)
        patched.setattr(QuotaLeases, "refresh", refresh)
        telling = asyncio.run_coroutine_threadsafe(engine.keep_telling(), loop)
        assert has_come.wait(WAIT)
        for _ in range(5):
            assert refreshes.acquire(timeout=WAIT)
        has_come.clear()
        released.set()
        assert has_come.wait(WAIT), "an error is not the last call"
        telling.cancel()
        time.sleep(0.1)


def test_events_pass_as_they_come(make_engine):
    engine, script = make_engine([lambda c: tokens(c, 1), lambda c: tokens(c, 2), finished])
    receiver = ask(engine)
    assert receiver.final().finish_reason == "stop"
    assert receiver.tokens == [1, 2]
    assert script.closed == 1
    assert engine.num_open == 0


def test_the_digest_goes_with_the_call_so_that_a_new_one_changes_nothing(make_engine, catalog):
    now = [0.0]
    engine, script = make_engine(good(1), good(1), clock=lambda: now[0])
    former = engine.look_up("poet").result(WAIT)
    catalog.move("poet", digest="c" * 64, place="p", num_bytes=1, kind="low-rank", rank=4)
    now[0] += 1.1
    receiver = Receiver()
    engine.submit(Request(request_id="r", prompt_token_ids=(1,), adapter="poet"), receiver, former)
    receiver.final()
    ask(engine, "poet").final()
    assert [call.adapters[0].digest[0] for call in script.calls] == ["a", "c"]
    assert {call.home_of for call in script.calls} == {"poet"}


def test_a_mixture_goes_with_all_its_parts_to_the_home_of_the_heaviest(make_engine):
    engine, script = make_engine(good(1))
    ask(engine, "poet:0.3+pirate:-0.7").final()
    (call,) = script.calls
    assert [(each.name, each.weight) for each in call.adapters] == [("poet", 0.3), ("pirate", -0.7)]
    assert call.home_of == "pirate"


def test_a_request_of_which_nothing_was_sent_goes_to_another_replica(make_engine):
    engine, script = make_engine([LostReplicaError("killed")], good(1, 2))
    receiver = ask(engine, "poet")
    assert isinstance(receiver.final(), Finished)
    assert receiver.tokens == [1, 2]
    assert len(script.calls) == script.closed == 2


@pytest.mark.parametrize(
    "error", [OverloadedError("full", retry_after=3.0), EngineStoppedError("stops")]
)
def test_a_replica_that_is_full_or_stops_is_not_asked_again(make_engine, error):
    engine, script = make_engine([lambda c: failed(c, error, rank=5)], good(1))
    assert isinstance(ask(engine).final(), Finished)
    assert [call.tried for call in script.calls] == [(), (5,)]


def test_a_request_that_has_begun_ends_with_an_error(make_engine):
    engine, script = make_engine([lambda c: tokens(c, 1), LostReplicaError("killed")], good(1))
    receiver = ask(engine)
    final = receiver.final()
    assert isinstance(final, Failed)
    assert "was lost" in str(final.error)
    assert receiver.tokens == [1]
    assert len(script.calls) == 1


def test_a_call_that_just_ends_counts_as_lost(make_engine):
    engine, _ = make_engine([lambda c: tokens(c, 1)])
    assert isinstance(ask(engine).final().error, EngineStoppedError)


def test_where_no_replica_can_take_it_the_last_reason_is_told(make_engine):
    full = OverloadedError("all full", retry_after=7.0)
    engine, script = make_engine(
        *([lambda c, rank=rank: failed(c, full, rank)] for rank in range(3))
    )
    final = ask(engine).final()
    assert isinstance(final.error, OverloadedError)
    assert final.error.retry_after == 7.0
    assert script.calls[-1].tried == (0, 1)


@pytest.mark.parametrize("error", [CapacityError("too large"), AdapterReadError("the disk")])
def test_what_another_replica_would_say_too_is_not_tried_there(make_engine, error):
    engine, script = make_engine([lambda c: failed(c, error)])
    final = ask(engine).final()
    assert type(final.error) is type(error)
    assert str(final.error) == str(error)
    assert len(script.calls) == 1


def test_a_cancelled_request_is_closed_on_its_replica_and_ends_once(make_engine):
    engine, script = make_engine([lambda c: tokens(c, 1), "wait"])
    receiver = ask(engine)
    assert receiver.begun.wait(WAIT)
    engine.cancel("r")
    assert receiver.final().finish_reason == "cancelled"
    assert script.closed == 1
    engine.cancel("r")


def test_a_request_that_is_cancelled_before_it_begins_has_its_final_event(make_engine, loop):
    engine, _ = make_engine(["wait"])
    gate = threading.Event()
    loop.call_soon_threadsafe(gate.wait)
    receiver = ask(engine)
    engine.cancel("r")
    gate.set()
    assert receiver.final().finish_reason == "cancelled"
    assert engine.num_open == 0


def test_requests_are_checked_before_any_replica_is_asked(make_engine):
    engine, script = make_engine()
    with pytest.raises(RequestError, match="context length"):
        ask(engine, prompt=[1] * 100)
    with pytest.raises(UnknownModelError, match="did you mean 'poet'"):
        ask(engine, "poem")
    assert script.calls == []
    assert engine.num_open == 0


def test_an_id_in_use_is_refused(make_engine):
    engine, _ = make_engine(["wait"])
    receiver = ask(engine)
    with pytest.raises(RequestError, match="in use"):
        ask(engine)
    engine.cancel("r")
    receiver.final()


def test_quotas_count_prompts_and_new_tokens(make_engine):
    limits = TenantLimits(tokens_per_minute=10)
    engine, _ = make_engine(good(*range(9)), limits=limits)
    ask(engine).final()
    with pytest.raises(QuotaError, match="10 tokens per minute"):
        ask(engine)
    with pytest.raises(QuotaError):
        engine.check_entry("default", own=0, others=0)
    assert engine.num_open == 0


def test_requests_in_flight_are_counted_until_they_end(make_engine):
    waiting = [lambda c: tokens(c, 1), "wait"]
    engine, _ = make_engine(waiting, good(1), limits=TenantLimits(max_in_flight=1))
    receiver = ask(engine)
    assert receiver.begun.wait(WAIT)
    with pytest.raises(QuotaError, match="in flight"):
        ask(engine, request_id="s")
    engine.cancel("r")
    receiver.final()
    ask(engine, request_id="s").final()


def test_adapters_are_listed_from_the_catalog_and_not_loaded_by_hand(make_engine):
    engine, _ = make_engine()
    assert [each.name for each in engine.adapters()] == ["pirate", "poet"]
    assert engine.adapter("poet").digest == "a" * 64
    assert engine.count_adapters() == 2
    with pytest.raises(UnknownModelError):
        engine.adapter("chef")
    for call in (engine.load_adapter, engine.unload_adapter):
        with pytest.raises(RequestError, match="gossamer cluster publish"):
            call("poet")


def test_figures_are_summed_over_replicas(make_engine):
    engine, _ = make_engine()
    stats = engine.stats()
    assert stats.num_running == 2
    assert stats.block_bytes == 1
    assert stats.finished == {"stop": 3, "length": 3}
    assert (stats.running_adapters, stats.waiting_adapters) == ({"a", "b"}, {"c"})
    assert [each["rank"] for each in engine.figures()] == [0, 1]


def test_after_a_shutdown_nothing_begins_and_what_runs_ends(make_engine):
    engine, _ = make_engine(["wait"])
    receiver = ask(engine)
    engine.shutdown()
    assert receiver.final().finish_reason == "cancelled"
    assert not engine.healthy()
    with pytest.raises(EngineStoppedError):
        engine.check_entry("default", own=0, others=0)
