"""An adapter's table of segments as bytes that rest in its own blocks and are read by a GPU.

A band is 16 output rows: one program owns it, finds the segments of its rows together, and is the
only one to write them. Segments of a band that share their columns follow each other, so that
inputs are read once for all of them.

The table is made of vectors, which may lie in any blocks: first the headers, 16 bytes for each
module of the whole model; then one vector for each changed module, with 16 bytes for each of its
bands; then one for each band that has segments, with 16 bytes for each of those.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.kernels.sparse_delta.batch import SparseTable

BAND = 16
"""Output rows of a band: what a tensor core takes at a time."""

HEADER = np.dtype([("bands", "<i8"), ("half", "<i4"), ("unused", "<i4")])
"""The header of one module: where in the pool its bands are, in 8-byte elements (-1: the module has
no change), and whether values are bfloat16."""

BAND_RECORD = np.dtype([("segments", "<i8"), ("count", "<i4"), ("unused", "<i4")])
"""A band: where in the pool its segments are, in 8-byte elements, and how many."""

SEGMENT = np.dtype([("offset", "<i8"), ("column", "<i4"), ("length_and_row", "<i4")])
"""A segment: its place in the pool in 4-byte elements, the first of consecutive columns or -1, and
`length * BAND + row` with the row within the band."""

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandOrder:
    """The segments of an adapter in the order of bands: what is known of a table before places."""

    num_modules: int
    """Modules of the whole model."""
    modules: LongArray
    """Shape [C]: the changed ones."""
    num_bands: LongArray
    """Shape [C]: bands of each."""
    count: LongArray
    """Shape [B]: segments of each band of all changed modules."""
    order: LongArray | None
    """Shape [S]: which segment of the adapter comes at each place; None: they are in order."""

    @property
    def vector_bytes(self) -> LongArray:
        """Return the size of each vector of the table."""
        sizes = (
            [self.num_modules * HEADER.itemsize],
            self.num_bands * BAND_RECORD.itemsize,
            self.count[self.count > 0] * SEGMENT.itemsize,
        )
        return np.concatenate(sizes).astype(np.int64)


def order_bands(table: SparseTable, widths: npt.ArrayLike) -> BandOrder:
    """Find the bands of each segment; widths: h_out of each module of the whole model."""
    modules = np.flatnonzero(table.count)
    num_bands = -(-np.asarray(widths, dtype=np.int64)[modules] // BAND)
    counts: list[LongArray] = [np.zeros(0, dtype=np.int64)]
    order: list[LongArray] = [np.zeros(0, dtype=np.int64)]
    for module, bands in zip(modules.tolist(), num_bands.tolist(), strict=True):
        first, count = int(table.first[module]), int(table.count[module])
        row, column = table.row[first : first + count], table.column[first : first + count]
        order.append(first + np.lexsort((row, column, row // BAND)))
        counts.append(np.bincount(row // BAND, minlength=bands))
    which = np.concatenate(order)
    return BandOrder(
        num_modules=len(table.count),
        modules=modules,
        num_bands=num_bands,
        count=np.concatenate(counts),
        order=None if (which == np.arange(len(which))).all() else which,
    )


def write_fixed(table: SparseTable, bands: BandOrder, out: npt.NDArray[np.uint8]) -> None:
    """Write to `out` what the table says wherever the adapter will lie: all but places.

    In `out` the vectors of `BandOrder.vector_bytes` lie one behind the other.
    """
    header, records, segments = _parts(bands, out)
    header["bands"], header["half"], header["unused"] = -1, table.half, 0
    records["segments"], records["count"], records["unused"] = 0, bands.count, 0
    row, column, length = (
        each if bands.order is None else each[bands.order]
        for each in (table.row, table.column, table.length)
    )
    segments["column"] = column
    segments["length_and_row"] = length * BAND + row % BAND


def write_places(
    offset: LongArray, bands: BandOrder, places: LongArray, out: npt.NDArray[np.uint8]
) -> None:
    """Write to `out`, behind `write_fixed`, where everything lies in the pool.

    offset [S]: of the adapter's segments, as in `SparseTable`; places: of the table's own vectors,
    in bytes. Both may be written again, for other places.
    """
    header, records, segments = _parts(bands, out)
    changed = len(bands.modules)
    header["bands"][bands.modules] = places[1 : 1 + changed] // 8
    records["segments"][bands.count > 0] = places[1 + changed :] // 8
    segments["offset"] = offset if bands.order is None else offset[bands.order]


def _parts(bands: BandOrder, out: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], ...]:
    """The headers, the records of bands, and those of segments."""
    sizes = (bands.num_modules * HEADER.itemsize, len(bands.count) * BAND_RECORD.itemsize)
    first, second = np.cumsum(sizes).tolist()
    return (
        out[:first].view(HEADER),
        out[first:second].view(BAND_RECORD),
        out[second:].view(SEGMENT),
    )
