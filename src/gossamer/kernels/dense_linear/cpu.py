"""Linear layers through oneDNN's packed weights (the operators that torch's own compiler uses)."""

import os

import torch
from torch import Tensor

PROGRAMS_VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
PROGRAMS = 64
# oneDNN keeps a program of half a MiB for each shape of weights and number of tokens, up to 1,024
# of them: most of a GiB after some hours of traffic. Making one again costs a tenth of a
# millisecond, which is nothing as long as it does not happen for every product of every step.
# oneDNN looks at the variable when it computes for the first time.
os.environ.setdefault(PROGRAMS_VARIABLE, str(PROGRAMS))


def keep_programs_for(shapes: int) -> None:
    """Have oneDNN keep programs for this number of shapes, each for several numbers of tokens.

    A model whose layers all have other widths, as pruning leaves them, has more shapes than the
    usual bound has programs, and each step would make all of them again: measured on a SmolLM2 with
    half of its heads and channels gone, 1.5 times the step. Another number that the variable has
    stays; what oneDNN has read already cannot be changed.
    """
    if os.environ.get(PROGRAMS_VARIABLE) == str(PROGRAMS):
        os.environ[PROGRAMS_VARIABLE] = str(max(PROGRAMS, 4 * shapes))


def can_pack(weight: Tensor) -> bool:
    """Whether this build of torch can pack `weight`."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack(weight: Tensor) -> Tensor:
    """The weight [h_out, h_in] in oneDNN's layout; opaque, for `packed_linear` only."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x [.., h_in] W^T + b."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def is_one_row_apart(packed: Tensor, h_in: int) -> bool:
    """Whether a row alone is computed in another order than among others, and rounds differently.

    oneDNN does so on CPUs with AVX-512 where `h_in` is above 1,024.
    """
    rows = torch.randn(2, h_in, generator=torch.Generator().manual_seed(0))
    alone, among = packed_linear(rows[:1], packed, None), packed_linear(rows, packed, None)
    return not torch.equal(alone[0], among[0])
