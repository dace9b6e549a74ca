"""An adapter's table as bytes that rest in the adapter's own blocks and are read by a GPU.

The table is written once, when the adapter arrives; a step then names the adapter by the place of
its table alone, and nothing that a captured graph has frozen changes as adapters come and go.

It is made of vectors, which may lie in any blocks: first the headers, 32 bytes (one sector of a
GPU's memory) for each module of the whole model; then one vector for each module that has rows,
with the offsets of those rows, int64, and for rows of int8 the float32 scale of each row behind
them. The gain of the module's outputs or inputs, if there is one, is in its header as well.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.kernels.gain import GainTable
from gossamer.kernels.grouped_lora.batch import LoraTable, RowFormat
from gossamer.kernels.module_header import (
    ALIGNMENT,
    HEADER,
    KEEPS_BIAS,
    SCALES_INPUT,
    SCALES_OUTPUT,
)

MAX_RANK = 256
"""The highest rank of a module that the kernels have room for."""


def vector_bytes(
    num_modules: int, rank: npt.NDArray[np.int32] | None, row_format: RowFormat
) -> npt.NDArray[np.int64]:
    """Return the size of each vector of a table, whole `ALIGNMENT`s.

    num_modules: those of the whole model; rank [M]: of each, None if there are no rows.
    """
    rows = np.zeros(0, dtype=np.int64)
    if rank is not None:
        rows = 2 * rank[rank > 0].astype(np.int64)
    size = rows * (8 + 4 * (row_format is RowFormat.INT8))
    return np.append(num_modules * HEADER.itemsize, -(-size // ALIGNMENT) * ALIGNMENT)


def write_table(
    lora: LoraTable | None,
    gain: GainTable | None,
    places: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> None:
    """Write the vectors of the table of an adapter with low-rank rows, a gain, or both, to `out`.

    places: where each vector will lie in the pool, in bytes; in `out` they lie one behind the other
    (`vector_bytes`). The offsets of rows and gains are those of the adapter's place in the pool.
    Raises `ValueError` if there is neither, if a rank exceeds `MAX_RANK`, or if a vector, a row or
    a gain does not start at a multiple of 16 bytes.
    """
    if lora is None and gain is None:
        raise ValueError("an adapter without rows and without a gain has no table")
    num_modules = len(lora.rank if lora is not None else gain.offsets)  # type: ignore[union-attr]
    _check_aligned("vector", places, 1)
    header = out[: num_modules * HEADER.itemsize].view(HEADER)
    header[:] = np.zeros((), dtype=HEADER)
    if lora is not None:
        header["rank"] = lora.rank
        header["scale"] = lora.scale
        header["flags"] = lora.format
        _write_rows(lora, places[1:], header, out[header.nbytes :])
    if gain is not None:
        has_gain = gain.offsets >= 0
        _check_aligned("gain", gain.offsets[has_gain], 4)
        header["gain"] = np.where(has_gain, gain.offsets, 0)
        kind = np.where(
            gain.scales_input, SCALES_INPUT, SCALES_OUTPUT | KEEPS_BIAS * bool(gain.keeps_bias)
        )
        header["flags"] |= np.where(has_gain, kind, 0).astype(np.int32)


def _write_rows(
    lora: LoraTable,
    places: npt.NDArray[np.int64],
    header: npt.NDArray[Any],
    out: npt.NDArray[np.uint8],
) -> None:
    """Write the vectors of the modules with rows to `out`, and their places into the headers."""
    if lora.rank.max(initial=0) > MAX_RANK:
        raise ValueError(f"a rank of {lora.rank.max()} exceeds {MAX_RANK}")
    _check_aligned("row", lora.offsets, lora.format.dtype.itemsize)
    modules = np.flatnonzero(lora.rank)
    header["rows"][modules] = places // 8
    sizes = vector_bytes(len(lora.rank), lora.rank, lora.format)[1:]
    lows = np.cumsum(sizes) - sizes
    numbers = zip(modules.tolist(), lows.tolist(), sizes.tolist(), strict=True)
    for module, low, size in numbers:
        first, count = int(lora.first_row[module]), 2 * int(lora.rank[module])
        vector = out[low : low + size]
        vector[: 8 * count].view("<i8")[:] = lora.offsets[first : first + count]
        if lora.format is RowFormat.INT8:
            vector[8 * count : 12 * count].view("<f4")[:] = lora.row_scale[first : first + count]
            vector[12 * count :] = 0


def _check_aligned(what: str, offsets: npt.NDArray[np.int64], itemsize: int) -> None:
    wrong = offsets[offsets * itemsize % ALIGNMENT != 0]
    if len(wrong):
        raise ValueError(f"a {what} starts at byte {wrong[0] * itemsize}, not at a multiple of 16")
