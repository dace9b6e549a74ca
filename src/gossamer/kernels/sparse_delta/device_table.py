"""An adapter's table of segments as bytes that rest in its own blocks and are read by a GPU.

A band is 16 output rows: one program owns it, finds the segments of its rows together, and is the
only one to write them. Segments of a band that share their columns follow each other, so that
inputs are read once for all of them.

The table is made of vectors, which may lie in any blocks: first the headers, 16 bytes for each
module of the whole model; then one vector for each changed module, with 16 bytes for each of its
bands; then one for each band that has segments, with 16 bytes for each of those.
"""

from dataclasses import dataclass

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
    order: LongArray
    """Shape [S]: which segment of the adapter comes at each place."""

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
    return BandOrder(
        num_modules=len(table.count),
        modules=modules,
        num_bands=num_bands,
        count=np.concatenate(counts),
        order=np.concatenate(order),
    )


def write_table(
    table: SparseTable, bands: BandOrder, places: LongArray, out: npt.NDArray[np.uint8]
) -> None:
    """Write the vectors of the table of an adapter to `out`.

    places: where each vector will lie in the pool, in bytes; in `out` they lie one behind the other
    (`BandOrder.vector_bytes`). The table's offsets are those of the adapter's place in the pool.
    """
    ends = np.cumsum([bands.num_modules * HEADER.itemsize, len(bands.count) * BAND_RECORD.itemsize])
    changed = len(bands.modules)
    header = out[: ends[0]].view(HEADER)
    header["bands"] = -1
    header["bands"][bands.modules] = places[1 : 1 + changed] // 8
    header["half"] = table.half
    header["unused"] = 0
    records = out[ends[0] : ends[1]].view(BAND_RECORD)
    records["segments"] = 0
    records["segments"][bands.count > 0] = places[1 + changed :] // 8
    records["count"] = bands.count
    records["unused"] = 0
    segments = out[ends[1] :].view(SEGMENT)
    segments["offset"] = table.offset[bands.order]
    segments["column"] = table.column[bands.order]
    segments["length_and_row"] = table.length[bands.order] * BAND + table.row[bands.order] % BAND
