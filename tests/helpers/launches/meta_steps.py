"""Steps of Llama-3-8B's shapes on tensors without data; each function returns a step to be run."""

from collections.abc import Callable

import torch

from gossamer.kernels.gain.triton_kernels import TritonInputGain
from gossamer.kernels.gated_activation.triton_kernels import silu_and_multiply
from launches.operations import CASES, LLAMA_3_8B


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
