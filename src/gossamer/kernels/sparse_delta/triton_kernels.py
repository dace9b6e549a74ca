"""Sparse weight changes on GPUs, in Triton: scattered entries (SHiRA) and dense blocks (SMT).

One program owns 16 output rows of a module and the tokens of a bundle; it walks the segments of
those rows, so that y is read and written once and there are no atomics. Rows of a block share their
columns and are a product of a tensor core; scattered entries gather their inputs, which rest in the
cache. The order of all sums is that of the adapter's own table: a token's result is the same bits
whatever its neighbours, within one variant (`Bundles.tokens`).
"""

# Of a kernel's arguments only the constexprs have types.
# mypy: disallow-incomplete-defs=False

from collections.abc import Collection, Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from gossamer.kernels.bundles import Bundles
from gossamer.kernels.sparse_delta import device_table
from gossamer.kernels.triton_kernels import CompileCase, as_input, dot, rounded

FLOATS, HALVES, ANY_VALUES = 0, 1, 2
"""The type of the values of all resident adapters; the last: each table says which it has."""
ENTRIES = 64
"""Entries of each row that are taken at a time."""
TOKENS = (8, 16, 64)
"""The most tokens of a bundle, by variant."""

_BAND = tl.constexpr(device_table.BAND)
# 8-byte elements of each.
_HEADER = tl.constexpr(device_table.HEADER.itemsize // 8)
_RECORD = tl.constexpr(device_table.BAND_RECORD.itemsize // 8)
_SEGMENT = tl.constexpr(device_table.SEGMENT.itemsize // 8)
_FLOATS = tl.constexpr(FLOATS)
_HALVES = tl.constexpr(HALVES)


@triton.jit
def _values(pool_float, pool_half, half, offset, k, mask, VALUES: tl.constexpr):
    """The values [16, k] of segments that begin at `offset`, as float32."""
    if VALUES == _FLOATS:
        return tl.load(pool_float + offset[:, None] + k[None, :], mask=mask, other=0.0)
    if VALUES == _HALVES:
        at = pool_half + 2 * offset[:, None] + k[None, :]
        return tl.load(at, mask=mask, other=0.0).to(tl.float32)
    # What is masked is not read: no more bytes than those of the adapter's own type.
    is_half = half != 0
    at = pool_half + 2 * offset[:, None] + k[None, :]
    halves = tl.load(at, mask=mask & is_half, other=0.0).to(tl.float32)
    floats = tl.load(pool_float + offset[:, None] + k[None, :], mask=mask & (half == 0), other=0.0)
    return tl.where(is_half, halves, floats)


@triton.jit
def _values_width(length, half, VALUES: tl.constexpr):
    """The 4-byte elements that the values of segments of `length` take."""
    if VALUES == _FLOATS:
        return length
    if VALUES == _HALVES:
        return (length + 1) // 2
    return tl.where(half != 0, (length + 1) // 2, length)


@triton.jit
def sparse_kernel(
    x, x_stride, y, y_stride, pool_float, pool_half, pool_int, pool_long,
    bundle_first, bundle_count, bundle_entry, entry_table, entry_weight, modules,
    band_module, band_number, column_end,
    TOKENS_: tl.constexpr, ENTRIES_: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """y[token, row] += sum over entries of the bundle of weight * sum over k of S[row, k] x[k].

    The grid is (bands of all modules of the group, bundles).
    """
    bundle = tl.program_id(1)
    count = tl.load(bundle_count + bundle)
    if count == 0:
        return
    m = tl.load(band_module + tl.program_id(0))
    band = tl.load(band_number + tl.program_id(0))
    module = tl.load(modules + m)
    first = tl.load(bundle_first + bundle)
    t = tl.arange(0, TOKENS_)
    r = tl.arange(0, _BAND)
    k = tl.arange(0, ENTRIES_)
    is_token = t < count
    acc = tl.zeros((_BAND, TOKENS_), dtype=tl.float32)
    touched = 0
    for e in range(tl.load(bundle_entry + bundle), tl.load(bundle_entry + bundle + 1)):
        table = tl.load(entry_table + e)
        header = table // 8 + module * _HEADER
        bands = tl.load(pool_long + header)
        half = tl.load(pool_int + 2 * header + 2)
        record = bands + band * _RECORD
        segments = tl.load(pool_long + record, mask=bands >= 0, other=0)
        number = tl.load(pool_int + 2 * record + 2, mask=bands >= 0, other=0)
        touched += number
        weight = tl.load(entry_weight + e)
        for s in range(0, number, _BAND):
            is_segment = s + r < number
            segment = segments + (s + r) * _SEGMENT
            offset = tl.load(pool_long + segment, mask=is_segment, other=0)
            column = tl.load(pool_int + 2 * segment + 2, mask=is_segment, other=-1)
            length_and_row = tl.load(pool_int + 2 * segment + 3, mask=is_segment, other=0)
            length = length_and_row // _BAND
            longest = tl.max(length, axis=0)
            sums = tl.zeros((_BAND, TOKENS_), dtype=tl.float32)
            shared = tl.max(column, axis=0)
            is_shared = tl.min(tl.where(is_segment, column, shared), axis=0) == shared
            if is_shared & (shared >= 0):
                for k_low in range(0, longest, ENTRIES_):
                    mask = (k_low + k)[None, :] < length[:, None]
                    values = _values(pool_float, pool_half, half, offset, k_low + k, mask, VALUES)
                    x_at = x + (first + t)[:, None] * x_stride + (shared + k_low + k)[None, :]
                    x_mask = is_token[:, None] & (k_low + k < longest)[None, :]
                    xs = tl.load(x_at, mask=x_mask, other=0.0)
                    sums = dot(as_input(values, x), tl.trans(xs), sums)
            else:
                # Columns follow the values, which fill whole 4-byte elements.
                places = offset + _values_width(length, half, VALUES)
                is_listed = column < 0
                for k_low in range(0, longest, ENTRIES_):
                    mask = (k_low + k)[None, :] < length[:, None]
                    values = _values(pool_float, pool_half, half, offset, k_low + k, mask, VALUES)
                    at = pool_int + places[:, None] + (k_low + k)[None, :]
                    listed = tl.load(at, mask=mask & is_listed[:, None], other=0)
                    columns = tl.where(
                        is_listed[:, None], listed, column[:, None] + (k_low + k)[None, :]
                    )
                    for i in range(count):
                        xs = tl.load(x + (first + i) * x_stride + columns, mask=mask, other=0.0)
                        part = tl.sum(values * xs.to(tl.float32), axis=1)
                        sums += tl.where((t == i)[None, :], part[:, None], 0.0)
            # Several segments may be of one row; which are, is the same for all tokens.
            row = length_and_row % _BAND
            is_row = (row[None, :] == r[:, None]) & is_segment[None, :]
            acc = dot(tl.where(is_row, weight, 0.0), sums, acc)
    if touched == 0:
        return
    module_low = tl.load(column_end + m)
    width = tl.load(column_end + m + 1) - module_low
    rows = band * _BAND + r
    y_at = y + (first + t)[None, :] * y_stride + (module_low + rows)[:, None]
    mask = is_token[None, :] & (rows < width)[:, None]
    acc += tl.load(y_at, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_at, rounded(acc, y), mask=mask)


class TritonSparseDelta:
    """The operation for one group of modules that read the same input."""

    def __init__(
        self,
        pool: Tensor,
        modules: Sequence[int],
        widths: Sequence[int],
        *,
        halves: Collection[bool] = (False, True),
    ) -> None:
        """Make the fixed arrays of the group on the device of `pool`.

        pool: bytes of the block pool, uint8; modules: their ids; widths: h_out of each, in order;
        halves: whether values are bfloat16, of all adapters that may be resident.
        """
        step = device_table.BAND
        bands = [(m, n) for m, width in enumerate(widths) for n in range(-(-width // step))]
        self._pools = (
            pool.view(torch.float32), pool.view(torch.bfloat16), pool.view(torch.int32),
            pool.view(torch.int64),
        )  # fmt: skip
        self._modules = _ints(modules, pool.device)
        self._band_module = _ints([m for m, _ in bands], pool.device)
        self._band_number = _ints([n for _, n in bands], pool.device)
        self._column_end = _ints(np.cumsum([0, *widths]).tolist(), pool.device)
        known = set(halves)
        self._values = ANY_VALUES if len(known) > 1 else HALVES if True in known else FLOATS

    def add_(self, y: Tensor, x: Tensor, bundles: Bundles) -> None:
        """Add to y [T, sum of widths], in place, what the adapters make of x [T, h_in].

        Rows of x and y are contiguous.
        """
        sparse_kernel[(len(self._band_module), len(bundles.first))](
            x, x.stride(0), y, y.stride(0), *self._pools, bundles.first, bundles.count,
            bundles.entry, bundles.entry_table, bundles.entry_weight, self._modules,
            self._band_module, self._band_number, self._column_end,
            TOKENS_=bundles.tokens, ENTRIES_=ENTRIES, VALUES=self._values,
            num_warps=4, num_stages=1,
            maxnreg=_register_limit(bundles.tokens, self._values),
        )  # fmt: skip


def _register_limit(tokens: int, values: int) -> int | None:
    """The registers of a thread, where the assembler would else choose fewer than it needs, and
    spill, so that one more block runs at a time."""
    return 128 if tokens <= 16 and values == HALVES else None


def _ints(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def compile_cases() -> list[CompileCase]:
    """Return the launches of a model in bfloat16, and one in float32; no shape is a constant."""
    launches = [("bf16", HALVES, tokens) for tokens in TOKENS]
    launches += [("bf16", ANY_VALUES, 8), ("fp32", FLOATS, 8)]
    return [_case(*launch) for launch in launches]


def _case(dtype: str, values: int, tokens: int) -> CompileCase:
    names = sparse_kernel.arg_names
    types = {
        "x": f"*{dtype}", "y": f"*{dtype}", "x_stride": "i32", "y_stride": "i32",
        "pool_float": "*fp32", "pool_half": "*bf16", "pool_long": "*i64", "entry_table": "*i64",
        "entry_weight": "*fp32",
    }  # fmt: skip
    constants = {"TOKENS_": tokens, "ENTRIES_": ENTRIES, "VALUES": values}
    return CompileCase(
        label=f"sparse {dtype}, values {('float32', 'bfloat16', 'any')[values]}, {tokens} tokens",
        kernel=sparse_kernel,
        signature={name: types.get(name, "*i32") for name in names if name not in constants},
        constants=constants,
        aligned=("x_stride", "y_stride"),
        num_stages=1,
        register_limit=_register_limit(tokens, values),
        most_registers=240 if tokens == 64 else 176,
        uses_tensor_cores=dtype != "fp32",
    )
