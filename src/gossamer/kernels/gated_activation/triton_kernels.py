"""The gate on GPUs, in Triton, with the factors of the next layer's inputs in the same pass.

What scales the inputs of the layer that follows (IA3 on `down_proj`) is applied to the result
before it is rounded and stored, so it takes no launch and no pass of its own.
"""

# Of a kernel's arguments only the constexprs have types.
# mypy: disallow-incomplete-defs=False

import triton
import triton.language as tl
from torch import Tensor

from gossamer.kernels.triton_kernels import CompileCase, rounded

TILE = 1024
"""Outputs of one program; four warps take 8 each at once, 16 bytes of bfloat16."""


@triton.jit
def gate_kernel(
    gate_up, stride, out, factors, offsets,
    F: tl.constexpr, TILE_: tl.constexpr, ALIGNMENT: tl.constexpr, HAS_GAIN: tl.constexpr,
):  # fmt: skip
    """out[t, n] = silu(gate[n]) * up[n] * factor[n] for one token and TILE_ columns, in float32."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * TILE_ + tl.arange(0, TILE_)
    mask = n < F
    row = gate_up + token * stride
    x = tl.load(row + n, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(row + F + n, mask=mask, other=0.0).to(tl.float32)
    # exp(-|x|) never overflows; silu(-x) = silu(x) - x.
    decay = tl.exp(-tl.abs(x))
    result = up * x * (tl.where(x >= 0, 1.0, decay) / (1.0 + decay))
    if HAS_GAIN:
        offset = tl.load(offsets + token)
        if offset >= 0:
            # The division tells the compiler that loads may be 16 bytes wide.
            at = factors + offset // ALIGNMENT * ALIGNMENT + n
            result *= tl.load(at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + token * F + n, rounded(result, out), mask=mask)


def silu_and_multiply(
    gate_up: Tensor, factors: Tensor | None = None, offsets: Tensor | None = None
) -> Tensor:
    """gate_up [.., 2 F] to silu(gate) * up, a new tensor [.., F] of the same type.

    factors: the block pool as the type that factors rest in. offsets: int64, at least one per row
    of gate_up: where in `factors` the row's F factors begin, a multiple of 16 bytes; -1: it has
    none. A token's adapter decides, so offsets are an array that each step fills.
    Raises `ValueError` if there are fewer offsets than rows, or only one of the two arguments.
    """
    rows = gate_up.reshape(-1, gate_up.shape[-1])
    if (factors is None) != (offsets is None):
        raise ValueError("factors and their offsets go together")
    if offsets is not None and len(offsets) < len(rows):
        raise ValueError(f"{len(offsets)} offsets of factors for {len(rows)} rows")
    width = rows.shape[1] // 2
    out = rows.new_empty(len(rows), width)
    gate_kernel[(len(rows), triton.cdiv(width, TILE))](
        rows, rows.stride(0), out,
        rows if factors is None else factors, rows if offsets is None else offsets,
        F=width, TILE_=TILE, ALIGNMENT=1 if factors is None else 16 // factors.itemsize,
        HAS_GAIN=offsets is not None, num_warps=4,
    )  # fmt: skip
    return out.view(*gate_up.shape[:-1], width)


def compile_cases() -> list[CompileCase]:
    """Launches for Llama-3-8B, 14,336 outputs; factors in bfloat16 and float32."""
    return [
        CompileCase(
            label=f"gate {kind} {gain or 'plain'}", kernel=gate_kernel,
            signature={
                "gate_up": f"*{kind}", "stride": "i32", "out": f"*{kind}",
                "factors": f"*{gain or kind}", "offsets": "*i64" if gain else f"*{kind}",
            },
            constants={
                "F": 14336, "TILE_": TILE, "ALIGNMENT": {"bf16": 8, "fp32": 4}.get(gain, 1),
                "HAS_GAIN": bool(gain),
            },
            aligned=("stride",), most_registers=48, most_shared=0,
            loads={"ld.16": 2 + bool(gain) if kind == "bf16" else 4},
        )
        for kind, gain in (("bf16", ""), ("bf16", "bf16"), ("bf16", "fp32"), ("fp32", "fp32"))
    ]  # fmt: skip
