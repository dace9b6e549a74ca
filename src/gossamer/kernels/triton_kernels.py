"""What all Triton kernels share: the interpreter's traps, and what is to be known to compile one.

In Triton's interpreter (`TRITON_INTERPRET=1` before Triton is imported) the kernels run on a CPU,
for tests. It computes bfloat16 wrongly without a word: products and conversions take its bits for
whole numbers, and rounding to it truncates. `dot`, `as_input` and `rounded` go by way of float32
there, and there only.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
import triton.language as tl

INTERPRET = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether kernels of this process are interpreted."""


@triton.jit
def dot(a, b, acc):
    """a @ b + acc, in float32; products of bfloat16 are exact either way."""
    if INTERPRET:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def as_input(rows, like):
    """Rows as they rest (int8 among them) in the element type of the pointer `like`."""
    if INTERPRET:
        return rounded(rows.to(tl.float32), like)
    return rows.to(like.dtype.element_ty)


@triton.jit
def rounded(values, like):
    """Float32 values rounded to the nearest of the element type of the pointer `like`."""
    if INTERPRET and like.dtype.element_ty == tl.bfloat16:
        bits = values.to(tl.uint32, bitcast=True)
        # Half a unit in the last place is added, and ties go to even; NaN stays NaN.
        bits = tl.where(values == values, bits + 0x7FFF + ((bits >> 16) & 1), bits)
        return (bits & 0xFFFF0000).to(tl.float32, bitcast=True).to(tl.bfloat16)
    return values.to(like.dtype.element_ty)


@dataclass(frozen=True, kw_only=True)
class CompileCase:
    """One way in which a kernel is launched, to be compiled for GPUs that are not here."""

    label: str
    kernel: Any
    """The function that `triton.jit` has made."""
    signature: Mapping[str, str]
    """The type of each argument that is no constexpr, such as "*bf16" or "i32"."""
    constants: Mapping[str, Any]
    """The value of each constexpr."""
    aligned: tuple[str, ...] = ()
    """Whole numbers among the arguments that are multiples of 16; all pointers are."""
    num_warps: int = 4
    num_stages: int = 2
    register_limit: int | None = None
    """The registers of a thread that the launch asks for (`maxnreg`), if it does."""
    most_registers: int = 255
    """The most registers that a thread may take."""
    most_shared: int = 100 * 1024
    """The most bytes of shared memory; sm_86, sm_89 and sm_120 have 100 KiB."""
    uses_tensor_cores: bool = False
    loads: Mapping[str, int] = field(default_factory=dict)
    """The widest loads that are asked for: PTX load instructions (by a name that the report knows)
    and how many at least."""


Cases = Callable[[], list[CompileCase]]
