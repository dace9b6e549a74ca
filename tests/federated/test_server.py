"""What the server sends whom: all that a client lacks, and nothing that it has."""

import torch

from gossamer.federated.aggregation import find_aggregation
from gossamer.federated.client import ClientReply
from gossamer.federated.schedule import Round
from gossamer.federated.server import FederatedServer

A = "base_model.model.layer.lora_A.default.weight"
B = "base_model.model.layer.lora_B.default.weight"


def round_of(number, aggregation):
    return Round(
        number=number,
        stage=0,
        stage_name="lora",
        begins_stage=False,
        aggregation=aggregation,
        parts=find_aggregation(aggregation).parts(number - 1),
        learning_rate=1.0,
    )


def server():
    made = FederatedServer(seed=0)
    made.begin_stage({A: torch.randn(2, 5), B: torch.zeros(4, 2)}, {}, needs_start=False)
    return made


def reply(*names):
    learnt = {A: torch.randn(2, 5), B: torch.randn(4, 2)}
    return ClientReply(
        tensors={name: learnt[name] for name in names}, rows=1, loss=1.0, steps=1, seconds=0.0
    )


def test_only_what_has_changed_is_sent_again():
    made = server()
    first, second, third = (round_of(number, "rolora") for number in (1, 2, 3))
    assert set(made.download(first, 0).tensors) == {A, B}
    made.finish(first, {0: reply(B)})
    assert set(made.download(second, 0).tensors) == {B}
    # One that comes later lacks both.
    assert set(made.download(second, 1).tensors) == {A, B}
    made.finish(second, {0: reply(A)})
    assert set(made.download(third, 0).tensors) == {A}


def test_a_client_that_did_not_answer_is_sent_all_of_it_again():
    made = server()
    first, second = (round_of(number, "ffa") for number in (1, 2))
    for client in (0, 1):
        made.download(first, client)
    made.finish(first, {0: reply(B)})
    assert set(made.download(second, 0).tensors) == {B}
    assert set(made.download(second, 1).tensors) == {A, B}


def test_additions_to_the_base_are_sent_until_they_have_arrived():
    made = server()
    first, second, third = (round_of(number, "flora") for number in (1, 2, 3))
    for client in (0, 1, 2):
        assert made.download(first, client).merged == []
    made.finish(first, {0: reply(A, B), 1: reply(A, B)})
    assert [len(made.download(second, client).merged) for client in (0, 1, 2)] == [1, 1, 1]
    # What clients begin again with they draw; the third too, which has had nothing yet.
    assert [set(made.download(second, client).tensors) for client in (0, 1, 2)] == [set()] * 3
    assert made.download(second, 0).draw_seed is not None
    made.finish(second, {0: reply(A, B)})
    assert [len(made.download(third, client).merged) for client in (0, 1, 2)] == [1, 2, 2]
    assert made.download(third, 0).bytes < made.download(third, 1).bytes
