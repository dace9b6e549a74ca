"""A decode step of a whole model is what a CUDA graph can hold: replayed, it computes another."""

import pytest
import torch
from launches.recording import NotRecordable
from launches.step_device import StepDevice, adapter

from model_steps import Steps, chunk, tiny_llama

KINDS = {
    "base": None,
    "lora": {"lora": True},
    "all kinds": {"lora": True, "sparse": True, "scales": True},
}


@pytest.fixture
def steps():
    device = StepDevice("cpu", torch.float32)
    made = Steps(tiny_llama(), device, num_blocks=40)
    device.roots += [made.model, made.lowering]
    return made


def run(steps, kinds, numbers, places, first_block, token):
    """A step of one sequence for each adapter number."""
    steps.prepare(
        [
            chunk(
                kinds and adapter(number, **kinds), computed=place,
                first_block=first_block + 4 * i, token=token,
            )
            for i, (number, place) in enumerate(zip(numbers, places, strict=True))
        ]
    )()  # fmt: skip


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_other_adapters_places_blocks_and_tokens_are_the_same_list(steps, kinds):
    run(steps, kinds, [0, 1, 2], [5, 17, 9], 0, 3)
    run(steps, kinds, [2, 2, 1, 0], [40, 6, 0, 31], 7, 11)
    run(steps, kinds, [1, 1, 1, 1], [12, 12, 12, 12], 20, 8)
    (runs,) = steps.device.recorded.values()
    assert len(runs) == 3
    assert len(runs[0]) > 50
    assert steps.device.differences() == []


def test_steps_of_other_sizes_and_kinds_are_lists_of_their_own(steps):
    run(steps, KINDS["lora"], [0, 1, 2], [5, 17, 9], 0, 3)
    run(steps, KINDS["lora"], [0], [5], 0, 3)
    run(steps, None, [0], [5], 0, 3)
    assert len(steps.device.recorded) == 3


def hook(steps, change):
    """Have `change` see what leaves the last norm, and the step."""
    norm = steps.network.model.norm
    norm.register_forward_hook(lambda module, inputs, output: change(output))


def test_a_number_of_the_step_is_seen(steps):
    counts = iter((3.0, 3.0, 4.0))
    hook(steps, lambda hidden: hidden.mul(next(counts)))
    run(steps, None, [0, 1, 2], [5, 17, 9], 0, 3)
    run(steps, None, [0, 1, 2], [5, 17, 9], 0, 3)
    (line,) = steps.device.differences()
    assert line.endswith("aten.mul.Tensor: (1, 3.0), then (1, 4.0)")


def test_an_array_that_each_step_makes_on_the_host_is_seen(steps):
    hook(steps, lambda hidden: hidden + torch.from_numpy(hidden[0, 0].numpy(force=True)))
    with pytest.raises(NotRecordable, match="numpy brings values to the host"):
        run(steps, None, [0, 1], [5, 17], 0, 3)


ELSEWHERE = [torch.ones(32)]
"""Memory that nothing which the runner keeps holds."""


def test_memory_that_may_be_gone_at_the_next_step_is_seen(steps):
    hook(steps, lambda hidden: hidden + ELSEWHERE[0])
    with pytest.raises(NotRecordable, match=r"a tensor \[32\] .* nor is memory that stays"):
        run(steps, None, [0, 1], [5, 17], 0, 3)
