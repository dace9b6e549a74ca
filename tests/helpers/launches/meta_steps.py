"""Steps of Llama-3-8B's shapes on tensors without data; each function returns a step to be run."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gossamer.kernels.gain.triton_kernels import TritonInputGain
from gossamer.kernels.gated_activation.triton_kernels import silu_and_multiply
from gossamer.kernels.hidden_edit import EditTable
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.packing.resident import DeviceTables, Resident
from gossamer.serving.runner.model_runner import ModelRunner
from gossamer.serving.runner.sampling.sampler import SamplingState
from gossamer.serving.runner.warm_up import warm_up
from launches.operations import CASES, LLAMA_3_8B
from launches.step_device import StepDevice, adapter
from model_steps import Steps, chunk, entry_of, llama_3_8b


def grouped_lora() -> Callable[[], object]:
    """q, k and v of 64 tokens."""
    return CASES["grouped_lora"](LLAMA_3_8B).body


def sparse_delta() -> Callable[[], object]:
    """q, k and v of 64 tokens."""
    return CASES["sparse_delta"](LLAMA_3_8B).body


def attention_decode() -> Callable[[], object]:
    """64 sequences."""
    return CASES["attention_decode"](LLAMA_3_8B).body


def gate() -> Callable[[], object]:
    """64 tokens."""
    return CASES["gate"](LLAMA_3_8B).body


def input_gain() -> Callable[[], object]:
    """64 tokens of `down_proj`."""
    return CASES["input_gain"](LLAMA_3_8B).body


def tables_of_the_host() -> Callable[[], object]:
    """A mistake: one array was left on the CPU."""
    x = torch.empty(64, 256, dtype=torch.bfloat16, device="meta")
    operation = TritonInputGain(torch.empty(256, dtype=torch.uint8, device="meta"), 0)
    return lambda: operation.scaled_inputs(x, torch.zeros(64, dtype=torch.int64))


def asks_for_a_value() -> Callable[[], object]:
    """A mistake: the host asks how many tokens there are."""
    count = torch.empty(1, dtype=torch.int32, device="meta")
    gate_up = torch.empty(64, 256, dtype=torch.bfloat16, device="meta")
    return lambda: silu_and_multiply(gate_up[: count.item()])


def _steps(num_layers: int) -> Steps:
    """Llama-3-8B in bfloat16, with fewer layers."""
    return Steps(llama_3_8b(num_layers), StepDevice("meta", torch.bfloat16), num_blocks=4096)


def _decode(num_layers: int, **kinds: bool) -> Callable[[], object]:
    entries = [adapter(number, **kinds) if kinds else None for number in range(64)]
    chunks = [chunk(entry, computed=500, first_block=32 * i) for i, entry in enumerate(entries)]
    return _steps(num_layers).prepare(chunks)


def base_decode_1() -> Callable[[], object]:
    """64 sequences of 500 places, without adapters, one layer."""
    return _decode(1)


def base_decode_2() -> Callable[[], object]:
    """The same with two layers."""
    return _decode(2)


def lora_decode_1() -> Callable[[], object]:
    """64 sequences with an adapter each, one layer."""
    return _decode(1, lora=True)


def lora_decode_2() -> Callable[[], object]:
    """The same with two layers."""
    return _decode(2, lora=True)


def all_decode_1() -> Callable[[], object]:
    """64 adapters with low-rank rows, sparse changes and gains of inputs; one layer."""
    return _decode(1, lora=True, sparse=True, scales=True)


def all_decode_2() -> Callable[[], object]:
    """The same with two layers."""
    return _decode(2, lora=True, sparse=True, scales=True)


def _prefill(num_layers: int) -> Callable[[], object]:
    chunks = [
        chunk(adapter(0), computed=100, count=500),
        chunk(adapter(1), computed=300, first_block=40),
        chunk(None, computed=0, count=40, first_block=80),
    ]
    return _steps(num_layers).prepare(chunks)


def prefill_1() -> Callable[[], object]:
    """A chunk of 500 tokens with an adapter, a decode with another, 40 tokens of the base."""
    return _prefill(1)


def prefill_2() -> Callable[[], object]:
    """The same with two layers."""
    return _prefill(2)


def _launched(params: Sequence[SamplingParams]) -> Callable[[], object]:
    """A step of the runner, one layer, with the choice of tokens; row i has the i-th parameters."""
    steps = _steps(1)
    runner = ModelRunner(steps.model, steps.builder, steps.device)
    chunks = [chunk(None, computed=9, first_block=i) for i in range(len(params))]
    states = {
        id(each.sequence): SamplingState(params=of, forbidden_early=(2,))
        for each, of in zip(chunks, params, strict=True)
    }
    for state in states.values():
        state.counts.update([3, 3, 7] if state.needs_counts else [])
    return lambda: runner.launch(chunks, lambda sequence: states[id(sequence)])


def launch_greedy() -> Callable[[], object]:
    """All rows take the likeliest token."""
    return _launched([SamplingParams(temperature=0.0)] * 4)


def launch_mixed() -> Callable[[], object]:
    """Rows of all sorts of sampling, but for a top_p without a top_k, which has to wait."""
    return _launched(
        [
            SamplingParams(temperature=0.0, logprobs=3),
            SamplingParams(temperature=0.7, top_p=0.9, top_k=50, seed=1),
            SamplingParams(temperature=1.0, top_k=5, min_p=0.1, min_tokens=3),
            SamplingParams(temperature=1.0, presence_penalty=0.5, frequency_penalty=0.1),
        ]
    )


def warm_up_of_a_server() -> Callable[[], object]:
    """What is run before the first request, one layer."""
    steps = _steps(1)
    runner = ModelRunner(steps.model, steps.builder, steps.device)
    return lambda: warm_up(runner, steps.pool, steps.layout, 64)


def steps_of_many_sizes() -> Callable[[], object]:
    """Decodes and mixed steps of a server's day, one layer."""
    steps = _steps(1)

    def run() -> None:
        scaling = [chunk(adapter(i, scales=True), computed=7) for i in range(3)]
        steps.prepare(scaling)()
        for number in (1, 3, 8, 17, 64, 200):
            for places in (1, 15, 16, 300, 3000):
                some = [chunk(adapter(i % 7), computed=places) for i in range(number)]
                steps.prepare(some)()
        for count in (2, 7, 16, 33, 64, 65, 500, 1999):
            for decodes in (0, 1, 5):
                some = [chunk(adapter(0), computed=count % 40, count=count)]
                some += [chunk(adapter(i), computed=70) for i in range(decodes)]
                steps.prepare(some)()
        for count in (1, 2, 8, 33, 300):
            steps.prepare([chunk(adapter(0, sparse=True), computed=9, count=count)])()
            steps.prepare([chunk(_editing(), computed=0, count=count), chunk(None, computed=50)])()

    return run


def _editing() -> AdapterEntry:
    """An adapter that edits the first and the last hidden states of a prompt."""
    rank = 4
    edit = EditTable(
        first_row=np.array([[0, 2 * rank + 1]]),
        rank=np.full((1, 2), rank, np.int32),
        offsets=np.arange(2 * (2 * rank + 1), dtype=np.int64),
        first_positions=3,
        last_positions=2,
    )
    return entry_of(Resident(tables=DeviceTables(), edit=edit))


def edited_prefill() -> Callable[[], object]:
    """A prompt of 300 tokens whose first and last hidden states an adapter edits, and a decode."""
    steps = _steps(1)
    return steps.prepare([chunk(_editing(), computed=0, count=300), chunk(adapter(0), computed=50)])
