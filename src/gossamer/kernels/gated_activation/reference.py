"""The gate in plain torch: the oracle of the tests."""

from torch import Tensor
from torch.nn import functional


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for gate_up [.., 2 F] = [gate, up]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
