"""An adapter's table of segments as bytes that rest in its own blocks and are read by a GPU.

First a header of 16 bytes for each module of the whole model; then the bounds of the bands of all
changed modules; then a record of 16 bytes for each segment. A band is 16 output rows: one program
owns it, finds the segments of its rows together, and is the only one to write them. Segments of a
band that share their columns follow each other, so that inputs are read once for all of them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from gossamer.kernels.sparse_delta.batch import SparseTable

BAND = 16
"""Output rows of a band: what a tensor core takes at a time."""

HEADER = np.dtype([("bands", "<i4"), ("segments", "<i4"), ("half", "<i4"), ("unused", "<i4")])
"""The header of one module: where the bounds of its bands and where the segments are, counted from
the start of the table in 4-byte elements (bands 0: the module has no change), and whether values
are bfloat16. The segments of band b are bounds[b] to bounds[b + 1]."""

SEGMENT = np.dtype([("offset", "<i8"), ("column", "<i4"), ("length_and_row", "<i4")])
"""A segment: its place in the pool in 4-byte elements, the first of consecutive columns or -1, and
`length * BAND + row` with the row within the band."""


def write_table(table: SparseTable, widths: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the bytes of the table; widths: h_out of each module of the whole model.

    Its offsets are those of the adapter's place in the pool.
    """
    header = np.zeros(len(table.first), dtype=HEADER)
    header["half"] = table.half
    bounds: list[npt.NDArray[np.int32]] = []
    order = [np.zeros(0, dtype=np.int64)]
    num_words = header.nbytes // 4
    for module, width in enumerate(np.asarray(widths).tolist()):
        first, count = int(table.first[module]), int(table.count[module])
        if not count:
            continue
        row, column = table.row[first : first + count], table.column[first : first + count]
        own = np.lexsort((row, column, row // BAND))
        num_bands = -(-width // BAND)
        edges = np.searchsorted(row[own] // BAND, np.arange(num_bands + 1))
        header["bands"][module] = num_words
        bounds.append((sum(map(len, order)) + edges).astype("<i4"))
        num_words += num_bands + 1
        order.append(first + own)
    padding = np.zeros(-num_words % 4, dtype="<i4")
    header["segments"] = num_words + len(padding)
    which = np.concatenate(order)
    segments = np.zeros(len(which), dtype=SEGMENT)
    segments["offset"] = table.offset[which]
    segments["column"] = table.column[which]
    segments["length_and_row"] = table.length[which] * BAND + table.row[which] % BAND
    return np.concatenate([_as_bytes(part) for part in (header, *bounds, padding, segments)])


def _as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)
