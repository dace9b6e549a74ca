"""Gains of inputs on GPUs, in Triton: x times the factors of each token's own adapter.

Gains of outputs are in the same pass as grouped LoRA; this kernel is launched before the product,
and only for modules whose inputs are their own (IA3 on `down_proj`). Where a module's factors are
says the table in the adapter's own blocks; see `grouped_lora/device_table.py`.
"""

# Of a kernel's arguments only the constexprs have types.
# mypy: disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor

from gossamer.kernels import module_header
from gossamer.kernels.triton_kernels import CompileCase, rounded

TILE = 1024
"""Inputs of one program; four warps take 8 each at once, 16 bytes of bfloat16."""

_LONGS = tl.constexpr(module_header.HEADER.itemsize // 8)  # 8-byte elements of a header
_SCALES_INPUT = tl.constexpr(module_header.SCALES_INPUT)


# One kernel for all modules: 0, 1 and multiples of 16 would have their own.
@triton.jit(do_not_specialize=["module"])
def scale_inputs_kernel(
    x, stride, out, pool_float, pool_int, pool_long, token_table, module,
    WIDTH: tl.constexpr, TILE_: tl.constexpr,
):  # fmt: skip
    """out[t, n] = x[t, n] * factor[n] for one token and TILE_ inputs; x itself without factors."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * TILE_ + tl.arange(0, TILE_)
    mask = n < WIDTH
    values = tl.load(x + token * stride + n, mask=mask, other=0.0)
    table = tl.load(token_table + token)
    if table >= 0:
        header = table // 8 + module * _LONGS
        flags = tl.load(pool_int + 2 * header + 6)
        if (flags & _SCALES_INPUT) != 0:
            # The division tells the compiler that loads may be 16 bytes wide.
            at = pool_float + tl.load(pool_long + header + 1) // 4 * 4 + n
            factors = tl.load(at, mask=mask, other=0.0)
            values = rounded(values.to(tl.float32) * factors, out)
    tl.store(out + token * WIDTH + n, values, mask=mask)


class TritonInputGain:
    """The operation for a group of one module."""

    def __init__(self, pool: Tensor, module: int) -> None:
        """pool: bytes of the block pool, uint8, aligned to 16 bytes; module: the id of the one."""
        self._pools = (pool.view(torch.float32), pool.view(torch.int32), pool.view(torch.int64))
        self._module = module

    def scaled_inputs(self, x: Tensor, token_table: Tensor) -> Tensor:
        """Return x [T, h_in] times the factors of each token's adapter, a new tensor of its type.

        Rows of x are contiguous. token_table: int64, at least T: where the headers of the token's
        adapter start in the pool, in bytes (`DeviceTables.lora`); -1: it has none. It is an array
        that each step fills, of any length from T on. Raises `ValueError` if it is shorter.
        """
        num_tokens, width = x.shape
        if len(token_table) < num_tokens:
            raise ValueError(f"{len(token_table)} places of tables for {num_tokens} tokens")
        out = x.new_empty(num_tokens, width)
        scale_inputs_kernel[(num_tokens, triton.cdiv(width, TILE))](
            x, x.stride(0), out, *self._pools, token_table, self._module,
            WIDTH=width, TILE_=TILE, num_warps=4,
        )  # fmt: skip
        return out


def compile_cases() -> list[CompileCase]:
    """Return launches for `down_proj` of Llama-3-8B, 14,336 inputs."""
    return [
        CompileCase(
            label=f"input gain {kind}", kernel=scale_inputs_kernel,
            signature={
                "x": f"*{kind}", "stride": "i32", "out": f"*{kind}", "pool_float": "*fp32",
                "pool_int": "*i32", "pool_long": "*i64", "token_table": "*i64", "module": "i32",
            },
            constants={"WIDTH": 14336, "TILE_": TILE},
            aligned=("stride",), most_registers=48, most_shared=0,
            # Of 1,024 factors, four bytes each, a thread takes eight.
            loads={"ld.16": 1 + 2 if kind == "bf16" else 2 + 2},
        )
        for kind in ("bf16", "fp32")
    ]  # fmt: skip
