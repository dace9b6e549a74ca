"""The gate on GPUs, in Triton: one pass over both halves."""

# Of a kernel's arguments only the constexprs have types.
# mypy: disallow-incomplete-defs=False

import triton
import triton.language as tl
from torch import Tensor

from gossamer.kernels.triton_kernels import CompileCase, rounded

TILE = 1024
"""Outputs of one program; four warps take 8 each at once, 16 bytes of bfloat16."""


@triton.jit
def gate_kernel(gate_up, stride, out, F: tl.constexpr, TILE_: tl.constexpr):
    """out[t, n] = silu(gate[n]) * up[n] for one token and TILE_ columns, in float32."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * TILE_ + tl.arange(0, TILE_)
    mask = n < F
    row = gate_up + token * stride
    x = tl.load(row + n, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(row + F + n, mask=mask, other=0.0).to(tl.float32)
    # exp(-|x|) never overflows; silu(-x) = silu(x) - x.
    decay = tl.exp(-tl.abs(x))
    result = up * x * (tl.where(x >= 0, 1.0, decay) / (1.0 + decay))
    tl.store(out + token * F + n, rounded(result, out), mask=mask)


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """gate_up [.., 2 F] to silu(gate) * up, a new tensor [.., F] of the same type."""
    rows = gate_up.reshape(-1, gate_up.shape[-1])
    width = rows.shape[1] // 2
    out = rows.new_empty(len(rows), width)
    gate_kernel[(len(rows), triton.cdiv(width, TILE))](
        rows, rows.stride(0), out, F=width, TILE_=TILE, num_warps=4
    )
    return out.view(*gate_up.shape[:-1], width)


def compile_cases() -> list[CompileCase]:
    """Launches for Llama-3-8B, 14,336 outputs."""
    return [
        CompileCase(
            label=f"gate {kind}", kernel=gate_kernel,
            signature={"gate_up": f"*{kind}", "stride": "i32", "out": f"*{kind}"},
            constants={"F": 14336, "TILE_": TILE},
            aligned=("stride",), most_registers=48, most_shared=0,
            loads={"ld.16": 2 if kind == "bf16" else 4},
        )
        for kind in ("bf16", "fp32")
    ]  # fmt: skip
