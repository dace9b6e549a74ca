"""An adapter's table as bytes that rest in the adapter's own blocks and are read by a GPU.

The table is written once, when the adapter arrives; a step then names the adapter by the place of
its table alone, and nothing that a captured graph has frozen changes as adapters come and go.

First a header of 32 bytes (one sector of a GPU's memory) for each module of the whole model; then
the offsets of all rows, int64; then, for rows of int8, the float32 scale of each row. The header
says where the module's own begin, counted from the start of the table. The gain of the module's
outputs or inputs, if there is one, is in its header as well.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.kernels.gain import GainTable
from gossamer.kernels.grouped_lora.batch import LoraTable, RowFormat

ALIGNMENT = 16
"""Bytes: tables, rows and gains start at multiples of it, so that 16 bytes are loaded at a time."""

MAX_RANK = 256
"""The highest rank of a module that the kernels have room for."""

HEADER = np.dtype(
    [
        ("first_offset", "<i4"),  # place of the module's first row offset, in 8-byte elements
        ("rank", "<i4"),  # 0: no rows
        ("scale", "<f4"),
        ("flags", "<i4"),  # the format of the rows, and the bits below
        ("gain", "<i8"),  # offset of the gain in the pool, in float32 elements
        ("first_row_scale", "<i4"),  # place of the first row's scale, in 4-byte elements
        ("unused", "<i4"),
    ]
)
"""The header of one module. Places are counted from the start of the table, in the elements named;
rows are first those of A [rank, h_in], then those of B transposed [rank, h_out]."""

FORMAT_BITS = 3
"""The bits of the flags that hold a `RowFormat`."""
SCALES_OUTPUT = 4
"""The flag of a gain of the module's outputs."""
SCALES_INPUT = 8
"""The flag of a gain of the module's inputs."""
KEEPS_BIAS = 16
"""The flag of a gain of outputs that leaves the bias as it is (DoRA)."""


def table_bytes(num_modules: int, num_rows: int, row_format: RowFormat) -> int:
    """Return the size of a table in bytes; num_modules: those of the whole model."""
    scales = 4 * num_rows if row_format is RowFormat.INT8 else 0
    return num_modules * HEADER.itemsize + 8 * num_rows + scales


def write_table(lora: LoraTable | None, gain: GainTable | None) -> npt.NDArray[np.uint8]:
    """Return the bytes of the table of an adapter that has low-rank rows, a gain, or both.

    Its offsets are those of the adapter's place in the pool. Raises `ValueError` if it has neither,
    if a rank exceeds `MAX_RANK`, or if a row or a gain does not start at a multiple of 16 bytes.
    """
    if lora is None and gain is None:
        raise ValueError("an adapter without rows and without a gain has no table")
    num_modules = len(lora.rank if lora is not None else gain.offsets)  # type: ignore[union-attr]
    header = np.zeros(num_modules, dtype=HEADER)
    rest = []
    if lora is not None:
        if lora.rank.max(initial=0) > MAX_RANK:
            raise ValueError(f"a rank of {lora.rank.max()} exceeds {MAX_RANK}")
        _check_aligned("row", lora.offsets, lora.format.dtype.itemsize)
        first_offset = num_modules * HEADER.itemsize // 8
        header["first_offset"] = first_offset + lora.first_row
        header["rank"] = lora.rank
        header["scale"] = lora.scale
        header["flags"] = lora.format
        rest.append(_as_bytes(lora.offsets.astype("<i8")))
        if lora.format is RowFormat.INT8:
            header["first_row_scale"] = 2 * (first_offset + len(lora.offsets)) + lora.first_row
            rest.append(_as_bytes(lora.row_scale.astype("<f4")))
    if gain is not None:
        has_gain = gain.offsets >= 0
        _check_aligned("gain", gain.offsets[has_gain], 4)
        header["gain"] = np.where(has_gain, gain.offsets, 0)
        kind = np.where(
            gain.scales_input, SCALES_INPUT, SCALES_OUTPUT | KEEPS_BIAS * bool(gain.keeps_bias)
        )
        header["flags"] |= np.where(has_gain, kind, 0).astype(np.int32)
    return np.concatenate([_as_bytes(header), *rest])


def _check_aligned(what: str, offsets: npt.NDArray[np.int64], itemsize: int) -> None:
    wrong = offsets[offsets * itemsize % ALIGNMENT != 0]
    if len(wrong):
        raise ValueError(f"a {what} starts at byte {wrong[0] * itemsize}, not at a multiple of 16")


def _as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)
