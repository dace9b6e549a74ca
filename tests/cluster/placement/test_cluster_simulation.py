"""Pretended replicas: what the ways of dividing requests come to."""

import json

import pytest

from gossamer.cli.main import main
from gossamer.cluster.placement.queues import LeastServed, SimulatedCall
from gossamer.cluster.placement.settings import SimulationSettings
from gossamer.cluster.placement.simulation import simulate

# Small caches, so that a short stretch of traffic fills them.
SMALL = SimulationSettings(replicas=8, adapters=4000, requests=800, pool=30, host=300, slots=16)
POLICIES = ("random", "power-of-two", "ring-bounded", "homes")


@pytest.fixture(scope="module")
def outcomes():
    return {name: simulate(SMALL, name) for name in POLICIES}


def test_every_policy_accounts_for_every_request(outcomes):
    for outcome in outcomes.values():
        assert outcome.pool + outcome.host + outcome.cold == pytest.approx(1)
        assert outcome.first <= outcome.cold + 1e-9
        assert outcome.imbalance >= 1


def test_homes_find_adapters_where_they_are_and_keep_replicas_even(outcomes):
    homes, usual = outcomes["homes"], outcomes["power-of-two"]
    assert homes.cold < 0.5 * usual.cold
    assert homes.start_mean < 0.5 * usual.start_mean
    assert homes.imbalance <= 1.15
    assert usual.imbalance <= outcomes["random"].imbalance + 0.05
    assert outcomes["ring-bounded"].cold < 0.6 * usual.cold


def test_the_same_seed_gives_the_same_figures(outcomes):
    assert simulate(SMALL, "homes") == outcomes["homes"]
    other = simulate(SMALL.updated({"seed": 1}), "homes")
    assert other != outcomes["homes"]
    assert other.cold == pytest.approx(outcomes["homes"].cold, abs=0.03)


def test_one_replica_is_no_better_for_being_found():
    one = SMALL.updated({"replicas": 1, "requests": 2000})
    policies = [simulate(one, name) for name in ("random", "homes")]
    assert policies[0].cold == policies[1].cold
    assert policies[0].start_mean == policies[1].start_mean


def test_a_slow_store_makes_requests_wait_for_the_loaders():
    slow = SMALL.updated({"replicas": 2, "cold_seconds": 0.5})
    one, more = simulate(slow, "homes"), simulate(slow.updated({"loaders": 4}), "homes")
    assert one.start_mean > 2 * more.start_mean


def test_rivals_share_one_replica_evenly_whatever_their_adapters_are():
    one = SMALL.updated({"replicas": 1, "requests": 3000, "rival": (1, 20), "load": 0.5})
    outcome = simulate(one, "homes")
    assert outcome.rivals == pytest.approx((0.5, 0.5), abs=0.05)
    alone = simulate(one.updated({"rival": ()}), "homes")
    assert alone.rivals == ()
    assert outcome.start_mean < alone.start_mean + 1, "they take what the others leave"


def test_rivals_over_several_replicas_get_parts_of_what_there_is():
    rivals = SMALL.updated({"rival": (1, 300, 300), "requests": 400})
    outcome = simulate(rivals, "homes")
    assert sum(outcome.rivals) == pytest.approx(1)
    assert min(outcome.rivals) > 0.15
    assert simulate(rivals, "homes") == outcome


def test_the_turns_of_tenants_go_by_what_each_has_had():
    waiting = LeastServed()
    calls = [SimulatedCall(0, tenant, 0.0, work) for tenant, work in (("a", 5), ("a", 1), ("b", 2))]
    for call in calls:
        waiting.add(call)
    assert list(waiting.first(9)) == [calls[0], calls[2], calls[1]]
    assert list(waiting.first(1)) == [calls[0]]
    waiting.start(calls[0])
    more = SimulatedCall(0, "b", 0.0, 2)
    waiting.add(more)
    assert list(waiting.first(9)) == [calls[2], more, calls[1]]
    for call in (calls[2], more, calls[1]):
        waiting.start(call)
    assert list(waiting.first(9)) == []


def test_the_command_shows_what_each_rival_got(capsys):
    words = "--replicas 2 --adapters 50 --requests 200 --policy homes --rival 1 --rival 5"
    assert main(["cluster", "simulate", *words.split()]) == 0
    table = capsys.readouterr().out.splitlines()
    assert "rivals' parts %" in table[2]
    assert "most / least" in table[2]
    assert " / " in table[3]
    assert main(["cluster", "simulate", "--rival", "0"]) == 2
    assert "--rival" in capsys.readouterr().err


def test_the_command_prints_a_table(capsys):
    words = "--replicas 2 --adapters 50 --requests 100 --policy random --policy homes"
    assert main(["cluster", "simulate", *words.split()]) == 0
    table = capsys.readouterr().out
    assert "2 replicas, 50 adapters, Zipf 1, 200 requests" in table
    assert [line.split()[0] for line in table.splitlines()[3:]] == ["random", "homes"]


def test_the_command_prints_json(capsys):
    words = "--replicas 2 --adapters 50 --requests 100 --policy homes --json"
    assert main(["cluster", "simulate", *words.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["replicas"] == 2
    assert found["policies"][0]["policy"] == "homes"


def test_wrong_numbers_name_the_option(capsys):
    assert main(["cluster", "simulate", "--replicas", "0"]) == 2
    assert "--replicas = 0: must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_homes_on_sixteen_replicas_keep_what_the_page_promises():
    settings = SimulationSettings(replicas=16)
    homes, usual = simulate(settings, "homes"), simulate(settings, "power-of-two")
    assert homes.cold <= 0.18
    assert homes.imbalance <= 1.15
    assert 2 * homes.start_mean <= usual.start_mean
