"""What clients send is judged before an adapter is made of it."""

from dataclasses import replace

import pytest
import torch
from test_server import A, B, reply, round_of, server

from gossamer.errors import TrainingError
from gossamer.federated.server import FederatedServer

GOOD = reply(A, B)


def bad_number(name, value):
    tensors = {**GOOD.tensors, name: GOOD.tensors[name].clone()}
    tensors[name][0, 0] = value
    return tensors


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tensors": {}}, "lacks '.*lora_A"),
        ({"tensors": {A: GOOD.tensors[A]}}, "lacks '.*lora_B"),
        ({"tensors": {**GOOD.tensors, "head": torch.ones(1)}}, "has 'head' .* not to learn"),
        ({"tensors": {**GOOD.tensors, B: torch.ones(4, 3)}}, r"\[4, 3\] instead of \[4, 2\]"),
        ({"tensors": {**GOOD.tensors, B: torch.ones(4, 2, dtype=torch.int64)}}, "int64"),
        ({"tensors": bad_number(A, float("nan"))}, "lora_A.* not finite"),
        ({"tensors": bad_number(B, float("-inf"))}, "lora_B.* not finite"),
        ({"rows": 0}, "tells 0 rows"),
        ({"rows": -3}, "tells -3 rows"),
        ({"rows": 1.5}, "tells 1.5 rows"),
        ({"rows": True}, "tells True rows"),
        ({"rows": 9}, "tells 9 rows; .* from 1 to 8"),
        ({"steps": 0}, "tells 0 steps"),
        ({"loss": float("nan")}, "a loss of nan"),
        ({"loss": [1.0]}, "a loss of"),
    ],
)
def test_a_reply_that_no_round_can_be_made_of(changes, reason):
    with pytest.raises(TrainingError, match=reason):
        server().check(round_of(1, "fedit"), 0, replace(GOOD, **changes), rows=8)


def test_more_rows_than_numbers_hold_are_refused_where_none_are_known():
    server().check(round_of(1, "fedit"), 0, replace(GOOD, rows=10**9), rows=None)
    with pytest.raises(TrainingError, match="rows"):
        server().check(round_of(1, "fedit"), 0, replace(GOOD, rows=10**18), rows=None)


def test_only_what_was_to_learn_is_asked_for():
    made = server()
    for number, name, other in ((1, B, A), (2, A, B)):
        plan = round_of(number, "rolora")
        made.check(plan, 0, reply(name), rows=None)
        for wrong in (reply(other), GOOD):
            with pytest.raises(TrainingError):
                made.check(plan, 0, wrong, rows=None)


@pytest.mark.parametrize("aggregation", ["flora", "flex", "zero-pad"])
def test_a_client_sends_the_shapes_of_its_rank(aggregation):
    made = FederatedServer(seed=0, ranks=[2, 1])
    made.begin_stage({A: torch.randn(2, 5), B: torch.zeros(4, 2)}, {}, needs_start=False)
    plan = round_of(1, aggregation)
    low = replace(GOOD, tensors={A: GOOD.tensors[A][:1], B: GOOD.tensors[B][:, :1]})
    made.check(plan, 0, GOOD, rows=None)
    made.check(plan, 1, low, rows=None)
    for client, wrong in ((0, low), (1, GOOD)):
        with pytest.raises(TrainingError, match="instead of"):
            made.check(plan, client, wrong, rows=None)
