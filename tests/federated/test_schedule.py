"""Which stage, rate, factors and clients each round has."""

from types import SimpleNamespace

import pytest

from gossamer.federated.aggregation import find_aggregation
from gossamer.federated.schedule import choose_clients, plan_rounds, round_seed
from gossamer.methods import Stage
from gossamer.training.plan import plan_stages


def plan(aggregation="fedit", stages=((10, 1.0),), scheduler="constant", warmup=0.0):
    settings = SimpleNamespace(learning_rate=0.1, warmup=warmup)
    made = [
        Stage(name=f"stage-{number}", steps=steps, rate_factor=factor)
        for number, (steps, factor) in enumerate(stages)
    ]
    total = sum(steps for steps, _ in stages)
    return plan_rounds(
        plan_stages(made, settings, total=total),
        find_aggregation(aggregation),
        scheduler=scheduler,
    )


def test_rounds_are_numbered_through_all_stages():
    rounds = plan("rolora", stages=((2, 5.0), (4, 1.0)))
    assert [r.number for r in rounds] == [1, 2, 3, 4, 5, 6]
    assert [r.stage for r in rounds] == [0, 0, 1, 1, 1, 1]
    assert [r.begins_stage for r in rounds] == [False, False, True, False, False, False]
    assert [r.learning_rate for r in rounds] == pytest.approx([0.5, 0.5, 0.1, 0.1, 0.1, 0.1])


def test_factors_learn_in_turns_and_in_the_last_stage_only():
    rounds = plan("rolora", stages=((2, 5.0), (4, 1.0)))
    assert [r.aggregation for r in rounds] == ["fedit"] * 2 + ["rolora"] * 4
    parts = [None if r.parts is None else "".join(r.parts) for r in rounds]
    assert parts == [None, None, "B", "A", "B", "A"]
    assert {r.parts for r in plan("ffa")} == {frozenset("B")}


def test_rates_fall_over_the_rounds():
    rates = [r.learning_rate for r in plan(stages=((4, 1.0),), scheduler="linear")]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    warm = [r.learning_rate for r in plan(stages=((4, 1.0),), warmup=2)]
    assert warm == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1])


def test_clients_are_drawn_anew_each_round_and_repeatably():
    drawn = [tuple(choose_clients(10, 3, number, 0)) for number in range(1, 9)]
    assert all(len(set(who)) == 3 and max(who) < 10 for who in drawn)
    assert len(set(drawn)) > 1
    assert drawn == [tuple(choose_clients(10, 3, number, 0)) for number in range(1, 9)]
    assert choose_clients(4, None, 1, 0) == choose_clients(4, 9, 1, 0) == [0, 1, 2, 3]


def test_the_first_clients_first_round_has_the_seed_of_the_run():
    assert round_seed(7, 1, 0) == 7
    seeds = {round_seed(7, number, client) for number in range(1, 20) for client in range(20)}
    assert len(seeds) == 19 * 20
    assert all(0 <= seed < 2**32 for seed in seeds)
