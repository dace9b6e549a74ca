"""Which replicas adapters are at home on: evenly, alike for all routers, and mostly for good."""

import random
from collections import Counter

import pytest

from gossamer.cluster.placement.homes import HomeRules, Homes

NAMES = [f"adapter-{number}" for number in range(20_000)]


def _homes(members, **rules):
    homes = Homes(HomeRules(**rules), clock=lambda: 0.0)
    homes.set_members(members)
    return homes


def _first(homes):
    return {name: homes.homes(name)[0] for name in NAMES}


@pytest.mark.parametrize("replicas", [4, 16])
def test_first_homes_are_spread_evenly(replicas):
    counts = Counter(_first(_homes(range(replicas))).values())
    mean = len(NAMES) / replicas
    assert len(counts) == replicas
    assert max(abs(count - mean) for count in counts.values()) < 0.1 * mean


@pytest.mark.parametrize("gone", [0, 7, 15])
def test_only_the_adapters_of_a_lost_replica_move(gone):
    homes = _homes(range(16))
    before = _first(homes)
    homes.set_members(each for each in range(16) if each != gone)
    after = _first(homes)
    moved = [name for name in NAMES if before[name] != after[name]]
    assert {before[name] for name in moved} == {gone}
    assert 0 < len(moved) <= 1.2 * len(NAMES) / 16


def test_a_replica_more_takes_its_share_and_no_other_adapter_moves():
    homes = _homes(range(16))
    before = _first(homes)
    homes.set_members(range(17))
    after = _first(homes)
    moved = [name for name in NAMES if before[name] != after[name]]
    assert {after[name] for name in moved} == {16}
    assert 0 < len(moved) <= 1.2 * len(NAMES) / 16


def test_two_routers_agree_without_a_word():
    one, other = _homes(range(12)), _homes(reversed(range(12)))
    one.choose(NAMES[1], {})
    assert [one.homes(name) for name in NAMES[2:200]] == [
        other.homes(name) for name in NAMES[2:200]
    ]
    loads = {each: each % 3 for each in range(12)}
    assert list(one.order(NAMES[0], loads)) == list(other.order(NAMES[0], loads))


def test_a_request_goes_home_while_home_is_not_much_busier_than_others():
    homes = _homes(range(8))
    first, second = homes.homes("poet")[:2]
    # Many others are asked for, so this one has two homes.
    for name in NAMES[:1000]:
        homes.choose(name, {})
    even = dict.fromkeys(range(8), 20)
    assert homes.choose("poet", even) == first
    assert homes.choose("poet", {**even, first: 25}) == first
    assert homes.choose("poet", {**even, first: 30}) == second


def test_where_all_homes_are_too_busy_the_next_in_order_takes_it():
    homes = _homes(range(8))
    for name in NAMES[:1000]:
        homes.choose(name, {})
    first, second = homes.homes("poet")
    loads = {**dict.fromkeys(range(8), 20), first: 60, second: 60}
    order = list(homes.order("poet", loads))
    assert order[0] not in (first, second)
    assert sorted(order) == list(range(8)), "a refused request has somewhere else to go"
    assert {*order[-2:]} == {first, second}
    assert order == list(homes.order("poet", loads)), "each time"


def test_an_adapter_that_is_wanted_much_gets_more_homes_that_share_its_requests():
    homes = _homes(range(16))
    for number in range(2000):
        homes.choose("poet" if number % 4 == 0 else NAMES[number], {})
    assert len(homes.homes("poet")) > 10
    assert len(homes.homes(NAMES[1])) == 2
    loads = Counter()
    for _ in range(160):
        loads[homes.choose("poet", loads)] += 1
    assert len(loads) > 10
    assert max(loads.values()) <= 2 * 160 / len(loads)


def test_requests_for_the_base_alone_go_where_least_is_done():
    homes = _homes(range(4))
    assert homes.choose(None, {0: 3, 1: 2, 2: 0, 3: 5}) == 2
    taken = Counter(homes.choose(None, {}) for _ in range(40))
    assert taken == dict.fromkeys(range(4), 10), "equally busy ones have their turns"


def test_no_load_is_far_above_the_mean_whatever_comes():
    rng = random.Random(0)
    homes = _homes(range(8))
    loads = Counter()
    for step in range(4000):
        name = NAMES[min(int(rng.paretovariate(0.6)), 5000)]
        loads[homes.choose(name, loads)] += 1
        mean = loads.total() / 8
        assert max(loads.values()) <= max(1.25 * mean, mean + 4) + 1
        if step > 200:
            loads[rng.choice([each for each in loads if loads[each]])] -= 1


def test_adapters_that_cooled_down_are_forgotten():
    now = 0.0
    homes = Homes(clock=lambda: now)
    homes.set_members(range(4))
    for name in NAMES[:3000]:
        homes.choose(name, {})
        now += 1.0
    assert homes.num_counted < 2 * 1024


def test_without_replicas_there_is_nothing_to_choose():
    with pytest.raises(ValueError, match="no replicas"):
        Homes().choose("poet", {})


def test_every_adapter_is_at_home_on_one_replica_and_a_wanted_one_on_several():
    homes = _homes(range(8))
    asked = {f"a{number}": 1.0 for number in range(400)} | {"wanted": 200.0}
    at_home = {member: homes.at_home(member, asked) for member in range(8)}
    listed = Counter(name for names in at_home.values() for name in names)
    assert {count for name, count in listed.items() if name != "wanted"} == {1}
    # A third of all requests: 1 and 8 x 0.33 / 0.125 homes, of which there are 8.
    assert listed["wanted"] == 8
    assert set(listed) == set(asked)
    for member, names in at_home.items():
        assert all(member == homes.homes(name)[0] for name in names if name != "wanted")
        assert names == [name for name in asked if name in names], "in the order that was given"


def test_a_wanted_adapters_own_requests_do_not_pile_up_behind_a_flood():
    homes = _homes(range(8))
    flooded = dict.fromkeys(range(8), 100)
    for _ in range(50):
        homes.choose("wanted", {})
    assert set(homes.homes("wanted")) == set(range(8))
    tempting = 3
    loads = {**flooded, tempting: 95}
    assert homes.choose("wanted", loads) == tempting
    assert homes.choose("wanted", loads, {tempting: 7}) == tempting
    assert homes.choose("wanted", loads, {tempting: 8}) != tempting
    assert homes.choose("wanted", loads, dict.fromkeys(range(8), 8)) == tempting


def test_nothing_is_at_home_anywhere_where_nothing_was_asked_for():
    assert _homes(range(3)).at_home(0, {}) == []
