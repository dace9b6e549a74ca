"""Each operation of the Triton backend is what a CUDA graph can hold; what it cannot, is seen."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from launches.operations import CASES, TINY
from launches.recording import NotRecordable, differences, record

from gossamer.kernels.gated_activation.triton_kernels import silu_and_multiply


@pytest.mark.parametrize("name", CASES)
def test_another_step_of_the_same_bucket_is_the_same_list(name):
    case = CASES[name](TINY)
    first = record(case.body, case.stays)
    assert any("[(" in operation.name for operation in first)
    for step in (1, 2):
        case.refill(step)
        assert differences(first, record(case.body, case.stays)) == []


@pytest.mark.parametrize("name", CASES)
def test_memory_that_does_not_stay_is_seen(name):
    case = CASES[name](TINY)
    missing = "step" if "step" in case.stays else "states"
    stays = {kind: tensors for kind, tensors in case.stays.items() if kind != missing}
    with pytest.raises(NotRecordable, match="neither made in the step nor is memory that stays"):
        record(case.body, stays)


@pytest.mark.parametrize("name", CASES)
def test_a_number_of_the_step_among_the_arguments_is_seen(name):
    """One token fewer: the grid of a launch is another."""
    case, fewer = CASES[name](TINY), CASES[name](replace(TINY, tokens=3))
    found = differences(record(case.body, case.stays), record(fewer.body, fewer.stays))
    assert re.search(r"kernel\[.*4.*\], then .*kernel\[.*3.*\]", found[-1])


ASKING = {
    "item": lambda x: x[0].item(),
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "as an array": lambda x: np.asarray(x),
    "as an index": lambda x: [1, 2, 3][x.long()[0]],
    "to the host": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "put by mask": lambda x: x.index_put_((x > 0,), torch.zeros_like(x[0])),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "repeat": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("name", ASKING)
def test_asking_for_a_value_is_seen(name):
    x = torch.ones(3)
    with pytest.raises(NotRecordable, match=r"to the host|wait for values"):
        record(lambda: ASKING[name](x), {"x": x})


@pytest.mark.parametrize(
    "bring", [lambda: torch.tensor([1.0, 2.0, 3.0]), lambda: torch.from_numpy(np.ones(3))]
)
def test_values_of_the_host_are_seen(bring):
    x = torch.ones(3)
    with pytest.raises(NotRecordable, match="neither made"):
        record(lambda: x + bring(), {"x": x})


def test_a_frozen_number_is_seen():
    x, runs = torch.ones(3), []
    for count in (2, 3):
        runs.append(record(lambda count=count: x.add_(count), {"x": x}))
    assert differences(*runs) == ["operation 0, aten.add_.Tensor: (1, 2), then (1, 3)"]


def test_another_place_of_the_same_memory_is_seen():
    x, runs = torch.ones(8), []
    for place in (0, 4):
        runs.append(record(lambda place=place: x[place : place + 4].neg_(), {"x": x}))
    assert len(differences(*runs)) > 0
    assert "offset=4" in " ".join(differences(*runs))


def test_where_new_memory_comes_to_lie_is_no_difference():
    x, kept = torch.ones(1000), []

    def body():
        kept.append(silu_and_multiply(x.view(2, 500)).sum())

    first = record(body, {"x": x})
    waste = [torch.empty(1000) for _ in range(5)]
    assert differences(first, record(body, {"x": x})) == []
    assert len(waste) == 5


def test_one_operation_more_is_seen():
    x = torch.ones(3)
    first = record(lambda: x.neg_(), {"x": x})
    second = record(lambda: x.neg_().neg_(), {"x": x})
    assert differences(first, second) == ["1 operations, then 2"]
    third = record(lambda: x.abs_(), {"x": x})
    assert differences(first, third) == ["operation 0: aten.neg_.default, then aten.abs_.default"]
