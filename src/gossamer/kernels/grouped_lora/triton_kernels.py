"""Grouped LoRA on GPUs, in Triton, with the gain of the outputs in the same pass.

Shrink makes v = x A^T, expand makes y = g * (y + weight * scale * v B^T): one launch each for all
modules that read the same input. Rows are read once for the tokens of a bundle, and each adapter
has its own rank: what is masked costs no bytes. Sums over the inputs are cut into slabs at fixed
places, which expand adds in order: no atomics, nothing to clear, and a token's result is the same
bits whatever its neighbours, within one variant (`Bundles.tokens`).

Where the rows lie says the table in the adapter's own blocks; see `device_table`.
"""

# Of a kernel's arguments only the constexprs have types.
# mypy: disallow-incomplete-defs=False

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from gossamer.kernels import module_header
from gossamer.kernels.bundles import Bundles
from gossamer.kernels.grouped_lora.batch import RowFormat
from gossamer.kernels.grouped_lora.device_table import MAX_RANK
from gossamer.kernels.scratch import ScratchMemory
from gossamer.kernels.triton_kernels import CompileCase, as_input, dot, rounded

SLAB = 1024
"""Inputs of one partial sum: always the same, so that sums never depend on the batch."""
ANY_FORMAT = len(RowFormat)
"""What stands for a `RowFormat` where among the resident adapters are several: each table says
which it has, but FLOAT16, for which there would be too few registers."""

TOGETHER = (RowFormat.FLOAT32, RowFormat.BFLOAT16, RowFormat.INT8)
_MAX_RANK = tl.constexpr(MAX_RANK)
_RANKS = tl.constexpr(16)  # rows of a tile: what a tensor core takes at a time
_LONGS = tl.constexpr(module_header.HEADER.itemsize // 8)  # 8-byte elements of a header
_FORMAT_BITS = tl.constexpr(module_header.FORMAT_BITS)
_SCALES_OUTPUT = tl.constexpr(module_header.SCALES_OUTPUT)
_KEEPS_BIAS = tl.constexpr(module_header.KEEPS_BIAS)
_FLOAT = tl.constexpr(int(RowFormat.FLOAT32))
_HALF = tl.constexpr(int(RowFormat.BFLOAT16))
_INT8 = tl.constexpr(int(RowFormat.INT8))
_FLOAT16 = tl.constexpr(int(RowFormat.FLOAT16))
_ANY = tl.constexpr(ANY_FORMAT)


class Variant(NamedTuple):
    """The tiles of both kernels for bundles of one size."""

    block_k: int
    """Inputs that shrink multiplies at a time."""
    block_n: int
    """Outputs of one program of expand."""
    shrink_stages: int = 3
    expand_stages: int = 2
    num_warps: int = 4


VARIANTS = {
    8: Variant(256, 256),
    16: Variant(128, 256, num_warps=8),
    64: Variant(64, 128, num_warps=8),
}
"""By the most tokens of a bundle: the first two for decoding, the last for prefill."""


@triton.jit
def _tile(pool, start, columns, mask, like, ALIGNMENT: tl.constexpr):
    """Rows [16, columns] in the element type of `like`.

    Each starts at a multiple of 16 bytes. The division says so to the compiler, which would else
    load two bytes at a time.
    """
    at = (start // ALIGNMENT * ALIGNMENT)[:, None] + columns[None, :]
    return as_input(tl.load(pool + at, mask=mask, other=0), like)


@triton.jit
def _rows(
    pool_float, pool_half, pool_int8, row_format, start, columns, mask, like, FORMAT: tl.constexpr
):
    """Rows [16, columns] of one adapter from the view of the pool that has its format."""
    if FORMAT == _FLOAT:
        return _tile(pool_float, start, columns, mask, like, 4)
    if FORMAT == _HALF:
        return _tile(pool_half, start, columns, mask, like, 8)
    if FORMAT == _INT8:
        return _tile(pool_int8, start, columns, mask, like, 16)
    if FORMAT == _FLOAT16:
        pool_float16 = pool_half.to(tl.pointer_type(tl.float16), bitcast=True)
        return _tile(pool_float16, start, columns, mask, like, 8)
    # What is masked is not read: no more bytes than those of the adapter's own format.
    is_half, is_int8 = row_format == _HALF, row_format == _INT8
    rows = _tile(pool_float, start, columns, mask & (row_format == _FLOAT), like, 4)
    rows = tl.where(is_half, _tile(pool_half, start, columns, mask & is_half, like, 8), rows)
    return tl.where(is_int8, _tile(pool_int8, start, columns, mask & is_int8, like, 16), rows)


@triton.jit
def _row_scales(offsets, rows, row_format, is_row, FORMAT: tl.constexpr):
    """The scales [16] of rows of int8, which follow `offsets`, those of all rows of the module
    from `rows` on; 1 for other formats."""
    at = offsets.to(tl.pointer_type(tl.float32), bitcast=True) + rows
    if FORMAT == _INT8:
        return tl.load(at, mask=is_row, other=1.0)
    return tl.load(at, mask=is_row & (row_format == _INT8), other=1.0)


@triton.jit
def shrink_kernel(
    x, x_stride, pool_float, pool_half, pool_int8, pool_int, pool_long,
    bundle_first, bundle_count, bundle_entry, entry_table, entry_row, modules,
    v, v_slab_stride, v_row_stride,
    H_IN: tl.constexpr, SLAB_: tl.constexpr, TOKENS: tl.constexpr, BLOCK_K: tl.constexpr,
    FORMAT: tl.constexpr,
):  # fmt: skip
    """v[slab, row, m * MAX_RANK + j] = sum over one slab of x[token, k] A[j, k], float32.

    The grid is (bundles, slabs, modules of the group); the row is that of the entry and the token.
    Rows of the adapter are the 16 rows of a tensor core's tile, tokens its 8 columns.
    """
    bundle = tl.program_id(0)
    slab = tl.program_id(1)
    m = tl.program_id(2)
    count = tl.load(bundle_count + bundle)
    if count == 0:
        return
    first = tl.load(bundle_first + bundle)
    entry_low = tl.load(bundle_entry + bundle)
    entry_high = tl.load(bundle_entry + bundle + 1)
    module = tl.load(modules + m)
    t = tl.arange(0, TOKENS)
    r = tl.arange(0, _RANKS)
    k = tl.arange(0, BLOCK_K)
    is_token = t < count
    x_at = x + (first + t)[:, None] * x_stride
    for e in range(entry_low, entry_high):
        table = tl.load(entry_table + e)
        header = table // 8 + module * _LONGS
        rank = tl.load(pool_int + 2 * header + 4)
        row_format = tl.load(pool_int + 2 * header + 6) & _FORMAT_BITS
        offsets = pool_long + tl.load(pool_long + header)
        v_row = tl.load(entry_row + e) + t
        for r_low in range(0, rank, _RANKS):
            is_row = r_low + r < rank
            start = tl.load(offsets + r_low + r, mask=is_row, other=0)
            acc = tl.zeros((_RANKS, TOKENS), dtype=tl.float32)
            for step in range(0, SLAB_, BLOCK_K):
                columns = slab * SLAB_ + step + k
                x_mask = is_token[:, None]
                a_mask = is_row[:, None]
                if H_IN % SLAB_ != 0:
                    x_mask = x_mask & (columns < H_IN)[None, :]
                    a_mask = a_mask & (columns < H_IN)[None, :]
                xs = tl.load(x_at + columns[None, :], mask=x_mask, other=0.0)
                a = _rows(
                    pool_float, pool_half, pool_int8, row_format, start, columns, a_mask, x, FORMAT
                )
                acc = dot(a, tl.trans(xs), acc)
            if (FORMAT == _INT8) | (FORMAT == _ANY):
                rows = 4 * rank + r_low + r
                acc *= _row_scales(offsets, rows, row_format, is_row, FORMAT)[:, None]
            v_at = (
                v + slab * v_slab_stride + v_row[None, :] * v_row_stride
                + m * _MAX_RANK + (r_low + r)[:, None]
            )  # fmt: skip
            tl.store(v_at, acc, mask=is_row[:, None] & is_token[None, :])


@triton.jit
def expand_kernel(
    y, y_stride, bias, pool_float, pool_half, pool_int8, pool_int, pool_long,
    bundle_first, bundle_count, bundle_entry, entry_table, entry_weight, entry_row, modules,
    tile_module, tile_column, column_end, v, v_slab_stride, v_row_stride,
    SLABS: tl.constexpr, TOKENS: tl.constexpr, BLOCK_N: tl.constexpr, FORMAT: tl.constexpr,
    EVEN: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """y[token, column] = g * (y + sum over entries of weight * scale * sum over j of v[j] B[j]).

    The grid is (tiles of columns of all modules of the group, bundles). A gain that keeps the bias
    adds (1 - g) * bias. EVEN: all widths are multiples of 16.
    """
    bundle = tl.program_id(1)
    count = tl.load(bundle_count + bundle)
    if count == 0:
        return
    tile = tl.program_id(0)
    m = tl.load(tile_module + tile)
    low = tl.load(tile_column + tile)  # first column of the tile, within its module
    module_low = tl.load(column_end + m)
    width = tl.load(column_end + m + 1) - module_low
    # Without these hints every load of a row is two bytes wide.
    low = tl.multiple_of(low, BLOCK_N)
    if EVEN:
        module_low = tl.multiple_of(module_low, 16)
        width = tl.multiple_of(width, 16)
    first = tl.load(bundle_first + bundle)
    entry_low = tl.load(bundle_entry + bundle)
    entry_high = tl.load(bundle_entry + bundle + 1)
    module = tl.load(modules + m)
    t = tl.arange(0, TOKENS)
    r = tl.arange(0, _RANKS)
    n = low + tl.arange(0, BLOCK_N)
    is_token = t < count
    is_column = n < width
    acc = tl.zeros((TOKENS, BLOCK_N), dtype=tl.float32)
    touched = 0
    gain_flags = 0
    gain_at = tl.full((), 0, tl.int64)
    for e in range(entry_low, entry_high):
        table = tl.load(entry_table + e)
        header = table // 8 + module * _LONGS
        rank = tl.load(pool_int + 2 * header + 4)
        flags = tl.load(pool_int + 2 * header + 6)
        row_format = flags & _FORMAT_BITS
        # Rows of B follow those of A.
        offsets = pool_long + tl.load(pool_long + header) + rank
        factor = tl.load(entry_weight + e) * tl.load(pool_float + 2 * header + 5)
        v_row = tl.load(entry_row + e) + t
        touched += rank
        has_gain = (flags & _SCALES_OUTPUT) != 0
        gain_flags = tl.where(has_gain, flags, gain_flags)
        gain_here = tl.load(pool_long + header + 1)
        gain_at = tl.where(has_gain, gain_here, gain_at)
        for r_low in range(0, rank, _RANKS):
            is_row = r_low + r < rank
            start = tl.load(offsets + r_low + r, mask=is_row, other=0)
            b_mask = is_row[:, None] & is_column[None, :]
            b = _rows(pool_float, pool_half, pool_int8, row_format, start, n, b_mask, y, FORMAT)
            v_at = v + v_row[:, None] * v_row_stride + m * _MAX_RANK + (r_low + r)[None, :]
            v_mask = is_token[:, None] & is_row[None, :]
            low_rank = tl.zeros((TOKENS, _RANKS), dtype=tl.float32)
            for slab in tl.static_range(0, SLABS):
                low_rank += tl.load(v_at + slab * v_slab_stride, mask=v_mask, other=0.0)
            low_rank *= factor
            if (FORMAT == _INT8) | (FORMAT == _ANY):
                rows = 3 * rank + r_low + r
                low_rank *= _row_scales(offsets, rows, row_format, is_row, FORMAT)[None, :]
            upper = rounded(low_rank, y)
            acc = dot(upper, b, acc)
            if y.dtype.element_ty != tl.float32:
                # The rest, so that v keeps its precision; products cost nothing here.
                acc = dot(rounded(low_rank - upper.to(tl.float32), y), b, acc)
    if (touched == 0) & (gain_flags == 0):
        return
    y_at = y + (first + t)[:, None] * y_stride + module_low + n[None, :]
    mask = is_token[:, None] & is_column[None, :]
    acc += tl.load(y_at, mask=mask, other=0.0).to(tl.float32)
    if gain_flags:
        gain = tl.load(pool_float + gain_at // 4 * 4 + n, mask=is_column, other=0.0)
        acc *= gain[None, :]
        if HAS_BIAS:
            is_kept = is_column & ((gain_flags & _KEEPS_BIAS) != 0)
            kept = tl.load(bias + module_low + n, mask=is_kept, other=0.0).to(tl.float32)
            acc += ((1.0 - gain) * kept)[None, :]
    tl.store(y_at, rounded(acc, y), mask=mask)


class TritonGroupedLora:
    """The operation and the gain for one group of modules that read the same input."""

    def __init__(
        self,
        pool: Tensor,
        modules: Sequence[int],
        widths: Sequence[int],
        h_in: int,
        scratch: ScratchMemory,
        *,
        bias: Tensor | None = None,
        formats: Collection[RowFormat] = TOGETHER,
    ) -> None:
        """Make the fixed arrays of the group on the device of `pool`.

        pool: bytes of the block pool, uint8, aligned to 16 bytes; modules: their ids; widths: h_out
        of each, in order; scratch: may be that of all groups of a model, since a group is done
        with it when its launches are; bias: of all modules, [sum of widths]; formats: those of rows
        that may be resident, one or some of `TOGETHER`.
        """
        self._floats = pool.view(torch.float32)
        self._pools = (
            self._floats, pool.view(torch.bfloat16), pool.view(torch.int8), pool.view(torch.int32),
            pool.view(torch.int64),
        )  # fmt: skip
        self._modules = _ints(modules, pool.device)
        self._column_end = _ints(np.cumsum([0, *widths]).tolist(), pool.device)
        self._tiles = {
            step: _tiles(widths, step, pool.device)
            for step in {variant.block_n for variant in VARIANTS.values()}
        }
        self._h_in = h_in
        self._slabs = triton.cdiv(h_in, SLAB)
        self._even = all(width % 16 == 0 for width in widths)
        self._scratch = scratch
        self._bias = bias
        self._format = int(next(iter(formats))) if len(formats) == 1 else ANY_FORMAT

    def add_(self, y: Tensor, x: Tensor, bundles: Bundles) -> None:
        """Change y [T, sum of widths] in place by what the adapters make of x [T, h_in].

        Rows of x and y are contiguous.
        """
        self.expand_(y, self.shrink(x, bundles), bundles)

    def shrink(self, x: Tensor, bundles: Bundles) -> Tensor:
        """Return what `expand_` is to read: partial sums of x A^T, until scratch is taken again."""
        variant = VARIANTS[bundles.tokens]
        slab_stride, row_stride = self._strides(bundles)
        v = self._scratch.take(self._slabs * slab_stride)
        tokens = (bundles.first, bundles.count, bundles.entry, bundles.entry_table)
        shrink_kernel[(len(bundles.first), self._slabs, len(self._modules))](
            x, x.stride(0), *self._pools, *tokens, bundles.entry_row, self._modules,
            v, slab_stride, row_stride,
            H_IN=self._h_in, SLAB_=SLAB, TOKENS=bundles.tokens, BLOCK_K=variant.block_k,
            FORMAT=self._format, num_warps=variant.num_warps, num_stages=variant.shrink_stages,
        )  # fmt: skip
        return v

    def expand_(self, y: Tensor, v: Tensor, bundles: Bundles) -> None:
        """Change y [T, sum of widths] in place by what the adapters make of `v`, and their gains.

        v: what `shrink` returned.
        """
        variant = VARIANTS[bundles.tokens]
        tile_module, tile_column = self._tiles[variant.block_n]
        tokens = (bundles.first, bundles.count, bundles.entry, bundles.entry_table)
        expand_kernel[(len(tile_module), len(bundles.first))](
            y, y.stride(0), self._floats if self._bias is None else self._bias, *self._pools,
            *tokens, bundles.entry_weight, bundles.entry_row, self._modules,
            tile_module, tile_column, self._column_end, v, *self._strides(bundles),
            SLABS=self._slabs, TOKENS=bundles.tokens, BLOCK_N=variant.block_n, FORMAT=self._format,
            EVEN=self._even, HAS_BIAS=self._bias is not None, num_warps=variant.num_warps,
            num_stages=variant.expand_stages,
        )  # fmt: skip

    def _strides(self, bundles: Bundles) -> tuple[int, int]:
        """Elements of v from one slab to the next, and from one row."""
        row_stride = len(self._modules) * MAX_RANK
        return bundles.rows * row_stride, row_stride


def _tiles(widths: Sequence[int], step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The module of the group, and the first column within it, of each tile of `step` columns."""
    tiles = [(m, low) for m, width in enumerate(widths) for low in range(0, width, step)]
    return _ints([m for m, _ in tiles], device), _ints([low for _, low in tiles], device)


def _ints(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


_TYPES = {
    "x_stride": "i32", "y_stride": "i32", "v_slab_stride": "i32", "v_row_stride": "i32",
    "pool_float": "*fp32", "pool_half": "*bf16", "pool_int8": "*i8", "pool_int": "*i32",
    "pool_long": "*i64", "bundle_first": "*i32", "bundle_count": "*i32", "bundle_entry": "*i32",
    "entry_table": "*i64", "entry_weight": "*fp32", "entry_row": "*i32", "modules": "*i32",
    "tile_module": "*i32", "tile_column": "*i32", "column_end": "*i32", "v": "*fp32",
}  # fmt: skip


def compile_cases() -> list[CompileCase]:
    """Return the launches for q, k and v of Llama-3-8B (4096 inputs), and down_proj (14336)."""
    half, int8 = int(RowFormat.BFLOAT16), int(RowFormat.INT8)
    launches = [("bf16", rows, n, 4096) for n in VARIANTS for rows in (half, int8, ANY_FORMAT)]
    launches += [("bf16", half, 8, 14336), ("fp32", int(RowFormat.FLOAT32), 8, 4096)]
    launches += [("fp16", int(RowFormat.FLOAT16), 8, 4096)]
    return [_case(kernel, *of) for of in launches for kernel in (shrink_kernel, expand_kernel)]


def _case(
    kernel: triton.JITFunction, dtype: str, row_format: int, tokens: int, h_in: int
) -> CompileCase:
    variant = VARIANTS[tokens]
    rows = "any" if row_format == ANY_FORMAT else RowFormat(row_format).name.lower()
    is_shrink = kernel is shrink_kernel
    constants = {
        "H_IN": h_in, "SLAB_": SLAB, "BLOCK_K": variant.block_k, "SLABS": h_in // SLAB,
        "BLOCK_N": variant.block_n, "EVEN": True, "HAS_BIAS": True, "TOKENS": tokens,
        "FORMAT": row_format,
    }  # fmt: skip
    types = {**_TYPES, **dict.fromkeys(("x", "y", "bias"), f"*{dtype}")}
    return CompileCase(
        label=f"{'shrink' if is_shrink else 'expand'} {dtype}, rows {rows}, {tokens} tokens, "
        f"{h_in} inputs",
        kernel=kernel,
        signature={name: types[name] for name in kernel.arg_names if name in types},
        constants={name: n for name, n in constants.items() if name in kernel.arg_names},
        aligned=("x_stride", "y_stride", "v_slab_stride", "v_row_stride"),
        num_warps=variant.num_warps,
        num_stages=variant.shrink_stages if is_shrink else variant.expand_stages,
        most_registers=176 if row_format == ANY_FORMAT or tokens == 64 else 128,
        uses_tensor_cores=dtype != "fp32",
        # Whole numbers of expand are loaded 8 bytes at a time, 256 bytes by a warp.
        loads={"cp.async.16": 2} if is_shrink or row_format != RowFormat.INT8 else {},
    )
