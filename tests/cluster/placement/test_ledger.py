"""Quotas over several servers: what all let in together, and what happens without the ledger."""

import random

import pytest

from gossamer.cluster.placement.ledger import GONE_SECONDS, QuotaLeases, QuotaLedger
from gossamer.errors import QuotaError
from gossamer.serving.core.tenants import TenantLimits

PER_MINUTE = 6000
LEASE = PER_MINUTE / 60


class World:
    """Some servers with one ledger, and a clock that is moved by hand."""

    def __init__(self, servers=2, **limits):
        self.now = 0.0
        self.limits = TenantLimits(**limits)
        self.ledger = QuotaLedger(self.clock)
        self.is_away = False
        self.asked = 0
        self.meanwhile = lambda: None
        self.servers = [
            QuotaLeases(f"server-{number}", lambda tenant: self.limits, self.ask, self.clock)
            for number in range(servers)
        ]

    def clock(self):
        return self.now

    def ask(self, requests):
        self.asked += 1
        self.meanwhile()
        return None if self.is_away else self.ledger.lease(requests)

    def second(self):
        self.now += 1
        for server in self.servers:
            server.refresh()

    def try_one(self, server, tokens=20, new=10):
        """Send a request and end it at once; the tokens that it used."""
        try:
            self.servers[server].admit("acme", tokens)
        except QuotaError:
            return 0
        self.servers[server].spend("acme", new)
        self.servers[server].leave("acme")
        return tokens + new

    def flood(self, seconds, per_second=40):
        """Send to servers drawn at random, more than the limit lets in; the tokens used."""
        rng, used = random.Random(0), 0
        for _ in range(int(seconds * per_second)):
            self.now += 1 / per_second
            used += self.try_one(rng.randrange(len(self.servers)))
            if int(self.now) > int(self.now - 1 / per_second):
                for server in self.servers:
                    server.refresh()
        return used


@pytest.mark.parametrize("servers", [1, 2, 5])
def test_all_servers_together_let_in_the_limit_and_at_most_a_lease_each(servers):
    world = World(servers, tokens_per_minute=PER_MINUTE)
    burst = world.flood(10, per_second=1000)
    assert burst <= PER_MINUTE * (1 + 10 / 60) + servers * LEASE
    minute = world.flood(60)
    assert minute <= PER_MINUTE + servers * LEASE
    assert minute >= 0.95 * PER_MINUTE


def test_a_server_asks_about_once_a_second_and_not_for_every_request():
    world = World(tokens_per_minute=PER_MINUTE)
    for _ in range(600):
        world.now += 0.1
        world.try_one(0, tokens=2, new=1)
    assert world.asked <= 1 + 600 * 3 / LEASE * 1.2


def test_a_refusal_says_when_to_come_again_and_coming_then_helps():
    world = World(tokens_per_minute=PER_MINUTE)
    while world.try_one(0):
        pass
    with pytest.raises(QuotaError, match="used up its 6000 tokens per minute") as caught:
        world.servers[0].admit("acme", 50)
    with pytest.raises(QuotaError):
        world.servers[0].check("acme", 0)
    world.now += caught.value.retry_after + 0.01
    world.servers[0].check("acme", 0)
    world.servers[0].admit("acme", 50)


def test_a_prompt_longer_than_a_minutes_tokens_is_let_in_once_and_owed():
    world = World(tokens_per_minute=PER_MINUTE)
    world.servers[0].admit("acme", 3 * PER_MINUTE)
    with pytest.raises(QuotaError):
        world.servers[0].admit("acme", 1)
    world.now += 60
    with pytest.raises(QuotaError):
        world.servers[0].admit("acme", 1)
    world.now += 61
    world.servers[0].admit("acme", 1)


def test_requests_in_flight_count_on_all_servers():
    world = World(servers=2, max_in_flight=3)
    world.servers[0].admit("acme", 5)
    world.servers[0].admit("acme", 5)
    world.second()
    world.servers[1].admit("acme", 5)
    world.second()
    for server in world.servers:
        with pytest.raises(QuotaError, match="3 requests in flight and may have 3"):
            server.admit("acme", 5)
    world.servers[0].leave("acme")
    world.servers[0].leave("acme")
    world.second()
    world.servers[1].admit("acme", 5)
    world.servers[1].admit("acme", 5)
    with pytest.raises(QuotaError):
        world.servers[1].admit("acme", 5)


def test_a_refused_request_does_not_stay_in_flight():
    world = World(servers=2, max_in_flight=1, tokens_per_minute=60)
    assert world.try_one(0, tokens=60, new=0)
    world.second()
    with pytest.raises(QuotaError, match="used up"):
        world.servers[0].admit("acme", 60)
    for _ in range(60):
        world.second()
    world.servers[1].admit("acme", 60)


def test_an_end_that_the_ledger_did_not_hear_of_is_told_again():
    world = World(servers=2, max_in_flight=1)
    world.servers[0].admit("acme", 5)
    world.second()
    world.servers[0].leave("acme")
    world.is_away = True
    world.second()
    world.is_away = False
    for _ in range(6):
        world.second()
    world.servers[1].admit("acme", 5)


def test_a_refresh_asks_once_for_all_tenants():
    world = World(servers=1, tokens_per_minute=PER_MINUTE)
    for number in range(20):
        world.servers[0].admit(f"tenant-{number}", 150)
    asked = world.asked
    world.second()
    assert world.asked == asked + 1
    for number in range(20):
        world.servers[0].leave(f"tenant-{number}")
    world.second()
    world.second()
    assert world.asked == asked + 2


def test_what_a_lost_server_had_in_flight_is_forgotten():
    world = World(servers=2, max_in_flight=2)
    world.servers[0].admit("acme", 5)
    world.servers[0].admit("acme", 5)
    world.second()
    with pytest.raises(QuotaError):
        world.servers[1].admit("acme", 5)
    world.now += GONE_SECONDS + 1
    world.servers[1].admit("acme", 5)


def test_without_the_ledger_each_server_has_its_part_of_the_limit():
    world = World(servers=2, tokens_per_minute=PER_MINUTE)
    world.flood(30)
    world.is_away = True
    world.flood(60)
    minute = world.flood(60)
    assert 0.9 * PER_MINUTE <= minute <= PER_MINUTE + 2 * LEASE
    world.is_away = False
    world.flood(30)
    assert world.flood(60) <= PER_MINUTE + 2 * LEASE


def test_a_ledger_that_does_not_answer_is_not_asked_for_every_request():
    world = World(servers=1, tokens_per_minute=PER_MINUTE)
    world.is_away = True
    world.flood(10, per_second=100)
    assert world.asked <= 4


def test_tenants_without_limits_ask_nobody():
    world = World()
    for _ in range(100):
        world.try_one(0)
    assert world.asked == 0


def test_those_who_end_do_not_wait_while_the_ledger_is_asked():
    world = World(servers=1, tokens_per_minute=PER_MINUTE)
    server = world.servers[0]
    server.admit("acme", 150)

    def end_one():
        # What the event loop does meanwhile; a lock held by the asker would stop it for ever.
        server.spend("acme", 5)
        server.leave("acme")
        server.check("acme", 0)

    world.meanwhile = end_one
    server.admit("acme", 150)
