"""Quotas: requests at a time, tokens a minute, bytes of adapters; and the whole rate limiter."""

import pytest
from policy_fakes import World

from gossamer.errors import CapacityError, EngineStoppedError, OverloadedError, QuotaError
from gossamer.serving.core.messages import Request
from gossamer.serving.core.tenants import NO_LIMITS, TenantLimits
from gossamer.serving.scheduler.rate_limiter import Quotas, RateLimiter
from gossamer.serving.scheduler.usage import TenantUsage


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def quotas(clock, **limits):
    own = TenantLimits(**limits)
    return Quotas(lambda tenant: own if tenant == "a" else NO_LIMITS, clock)


def test_parts_of_a_mixture_that_are_in_use_count_once():
    policy = {"limits_of": lambda tenant: TenantLimits(resident_bytes=250)}
    world = World(60, {"a": 5, "b": 5, "c": 5}, adapter_bytes=100, policy=policy)
    long = world.add(4, 40, "a")
    world.step()
    world.threads.run()
    world.step()
    mixture, third = world.add(4, 20, "a:0.5+b:0.5"), world.add(4, 2, "c")
    for _ in range(5):
        world.threads.run()
        world.step()
    assert {long, mixture} <= set(world.scheduler.running)
    assert third in world.scheduler.waiting
    world.steps()
    assert third in world.done


def refusal(call, *arguments):
    with pytest.raises(QuotaError) as caught:
        call(*arguments)
    return caught.value


def test_requests_at_a_time(clock):
    book = quotas(clock, max_in_flight=2)
    book.admit("a", 1)
    book.admit("a", 1)
    assert "2 requests in flight and may have 2" in str(refusal(book.admit, "a", 1))
    book.admit("b", 1)
    book.leave("a")
    book.admit("a", 1)
    assert book.in_flight("a") == 2


def test_tokens_a_minute_grow_back_and_new_tokens_count(clock):
    book = quotas(clock, tokens_per_minute=600)
    book.admit("a", 400)
    book.spend("a", 150)
    error = refusal(book.admit, "a", 100)
    # 50 are left, 50 short, 10 grow in a second.
    assert error.retry_after == pytest.approx(5)
    clock.now = 4.9
    refusal(book.admit, "a", 100)
    clock.now = 5.0
    book.admit("a", 100)
    clock.now = 1000.0
    book.admit("a", 600)
    refusal(book.admit, "a", 1)


def test_what_was_generated_beyond_the_limit_is_owed(clock):
    book = quotas(clock, tokens_per_minute=60)
    book.admit("a", 10)
    book.spend("a", 110)
    assert refusal(book.admit, "a", 1).retry_after == pytest.approx(61)


def test_a_prompt_longer_than_a_minutes_tokens_may_still_come(clock):
    book = quotas(clock, tokens_per_minute=60)
    book.admit("a", 500)
    assert refusal(book.admit, "a", 1).retry_after == pytest.approx(441)


def test_a_refused_request_has_used_nothing(clock):
    book = quotas(clock, max_in_flight=1, tokens_per_minute=100)
    book.admit("a", 50)
    refusal(book.admit, "a", 50)
    book.leave("a")
    book.admit("a", 50)


def request(tenant="default"):
    return Request(request_id="1", prompt_token_ids=(1, 2), tenant=tenant)


def test_one_tenants_flood_does_not_shut_others_out(clock):
    usage = TenantUsage(None)
    rate_limiter = RateLimiter(4, usage, clock=clock)
    for waiting in range(4):
        rate_limiter.admit(request("flood"), waiting)
    with pytest.raises(OverloadedError):
        rate_limiter.admit(request("flood"), 4)
    rate_limiter.admit(request("quiet"), 4)
    rate_limiter.admit(request("quiet"), 5)
    with pytest.raises(OverloadedError):
        rate_limiter.admit(request("quiet"), 6)
    assert usage.of("flood").refused == {"queue": 1}
    assert usage.of("quiet").refused == {"queue": 1}


def test_a_lone_tenant_meets_the_end_of_the_queue(clock):
    rate_limiter = RateLimiter(2, TenantUsage(None), clock=clock)
    rate_limiter.admit(request(), 0)
    rate_limiter.admit(request(), 1)
    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        rate_limiter.admit(request(), 2)


def test_the_hint_follows_the_pace_at_which_requests_end(clock):
    rate_limiter = RateLimiter(3, TenantUsage(None), clock=clock)
    for end in range(1, 6):
        rate_limiter.admit(request(), 0)
        clock.now = 2.0 * end
        rate_limiter.leave("default")
    with pytest.raises(OverloadedError) as caught:
        rate_limiter.admit(request(), 3)
    assert caught.value.retry_after == pytest.approx(6)


def test_a_closed_door(clock):
    rate_limiter = RateLimiter(3, TenantUsage(None), clock=clock)
    rate_limiter.close()
    with pytest.raises(EngineStoppedError):
        rate_limiter.admit(request(), 0)


# Bytes of adapters.


def limited(resident_bytes, **more):
    limits = {"a": TenantLimits(resident_bytes=resident_bytes)}
    policy = {"limits_of": lambda tenant: limits.get(tenant, NO_LIMITS)}
    return World(200, dict.fromkeys("pqr", 2), adapter_bytes=100, policy=policy, **more)


def test_a_tenant_uses_no_more_adapter_memory_than_it_may_and_others_go_on():
    world = limited(200)
    for name in "pqr":
        world.add(4, 20, name, tenant="a")
    world.add(4, 20, "r", tenant="b")
    most = 0
    for _ in range(200):
        world.threads.run()
        world.step()
        used = {s.adapter.name for s in world.scheduler.running if s.tenant == "a"}
        most = max(most, len(used))
        if len(world.scheduler.running) == 3:
            assert [s.tenant for s in world.scheduler.waiting] == ["a"]
    assert most == 2
    assert len(world.done) == 4


def test_an_adapter_larger_than_the_quota_is_refused_for_that_tenant_alone():
    world = limited(99)
    world.add(4, 2, "p", tenant="a")
    world.add(4, 2, "p", tenant="b")
    world.steps()
    ((refused, error),) = world.refused
    assert refused.tenant == "a"
    assert type(error) is CapacityError
    assert "takes 100 bytes and tenant 'a' may use 99" in str(error)
    assert [s.tenant for s in world.done] == ["b"]
