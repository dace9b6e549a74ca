"""Tenants on a running engine: quotas, fairness, a promise on the first token, figures."""

import itertools
import time

import pytest
from engine_case import Collector, check_idle, slow_down, standing_still

from gossamer.errors import OverloadedError, QuotaError
from gossamer.serving.core.messages import Failed, Request, SamplingParams
from gossamer.serving.core.tenants import NO_LIMITS, TenantLimits
from gossamer.serving.engine.build import build_engine
from gossamer.serving.settings import ServeSettings


def send(engine, tenant="default", *, prompt=8, new=6, priority=0):
    collector = Collector()
    request = Request(
        request_id=collector.id,
        prompt_token_ids=tuple(range(3, 3 + prompt)),
        sampling=SamplingParams(max_tokens=new, temperature=0, ignore_eos=True),
        tenant=tenant,
        priority=priority,
    )
    engine.submit(request, collector)
    return collector


@pytest.fixture
def make_limited(tiny_model):
    engines = []

    def make(limits=None, **settings):
        given = {"model": str(tiny_model), "memory_gib": 0.003, "threads": 1, **settings}

        def limits_of(tenant):
            return (limits or {}).get(tenant, NO_LIMITS)

        engines.append(build_engine(ServeSettings(**given), limits_of))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()


def stats_of(engine, tenant):
    return next(t for t in engine.stats().tenants if t.name == tenant)


def test_quotas_are_told_at_once_and_free_again(make_limited):
    engine = make_limited({"a": TenantLimits(max_in_flight=2)})
    with standing_still(engine):
        running = [send(engine, "a"), send(engine, "a")]
        with pytest.raises(QuotaError):
            send(engine, "a")
        other = send(engine, "b")
    for collector in [*running, other]:
        collector.wait()
    check_idle(engine)
    send(engine, "a").wait()
    assert stats_of(engine, "a").refused["quota"] == 1
    assert stats_of(engine, "a").generated_tokens == 3 * 6
    assert stats_of(engine, "a").prompt_tokens == 3 * 8


def test_generated_tokens_use_up_the_minute(make_limited):
    engine = make_limited({"a": TenantLimits(tokens_per_minute=30)})
    send(engine, "a", prompt=8, new=20).wait()
    with pytest.raises(QuotaError, match="30 tokens per minute") as caught:
        send(engine, "a")
    assert 5 < caught.value.retry_after < 60


def test_another_tenant_overtakes_a_flood(make_limited):
    engine = make_limited(max_running=4)
    with standing_still(engine):
        flood = [send(engine, "flood", new=8) for _ in range(40)]
        quiet = send(engine, "quiet", new=2)
    quiet.wait()
    # Of forty, those that began before it and one round of places beside it may be done.
    assert sum(collector.done.is_set() for collector in flood) <= 12
    for collector in flood:
        collector.wait()
    check_idle(engine)


def test_priority_reorders_a_tenants_own_queue(make_limited):
    engine = make_limited(max_running=1)
    with standing_still(engine):
        low = [send(engine, priority=5) for _ in range(5)]
        high = send(engine, priority=-5)
    high.wait()
    assert sum(collector.done.is_set() for collector in low) <= 1
    for collector in low:
        collector.wait()


def test_overload_with_a_promise_keeps_it_for_those_who_are_admitted(make_limited):
    """Margins are wide: a step is made to take 20 ms, whatever the machine does beside."""
    engine = make_limited(max_running=4, first_token_slo=1.5)
    slow_down(engine, 0.02)
    # The engine learns its speed.
    for collector in [send(engine, new=10) for _ in range(8)]:
        collector.wait()
    before = stats_of(engine, "default")
    sent = []
    # Four places of some ten steps carry about 20 requests a second at best; 60 come.
    started = time.monotonic()
    for number in itertools.count():
        if number == 180:
            break
        time.sleep(max(0.0, started + number / 60 - time.monotonic()))
        sent.append(send(engine, new=10))
    finals = [collector.wait() for collector in sent]
    refused = [final for final in finals if isinstance(final, Failed)]
    assert all(isinstance(final.error, OverloadedError) for final in refused)
    assert all(final.error.retry_after >= 1 for final in refused)
    after = stats_of(engine, "default")
    admitted = after.first_tokens - before.first_tokens
    assert admitted + len(refused) == len(sent)
    assert len(refused) > 40
    assert admitted > 5
    assert after.refused["deadline"] == len(refused)
    assert (after.in_time - before.in_time) / admitted >= 0.9
    assert 0 < after.satisfaction <= after.in_time
    check_idle(engine)


def test_without_tenants_all_is_the_default_ones(make_limited):
    engine = make_limited()
    send(engine).wait()
    check_idle(engine)
    (tenant,) = engine.stats().tenants
    assert tenant.name == "default"
    assert tenant.in_time is None
    assert tenant.first_tokens >= 1
