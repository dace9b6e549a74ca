"""What a GPU kernel reads first of an adapter: one header for each module of the model.

A header says where the module's low-rank rows and its gain are, and what the gain scales; see
`grouped_lora/device_table.py` for the table that begins with them.
"""

import numpy as np

ALIGNMENT = 16
"""Bytes: the vectors of tables, rows and gains start at multiples of it, since kernels load as many
at a time."""

HEADER = np.dtype(
    [
        ("rows", "<i8"),  # place in the pool of the module's row offsets, in 8-byte elements
        ("gain", "<i8"),  # place in the pool of the gain, in float32 elements
        ("rank", "<i4"),  # 0: no rows
        ("scale", "<f4"),
        ("flags", "<i4"),  # the format of the rows, and the bits below
        ("unused", "<i4"),
    ]
)
"""The header of one module: one sector of a GPU's memory. Rows are first those of A [rank, h_in],
then those of B transposed [rank, h_out]; their scales follow the offsets."""

FORMAT_BITS = 3
"""The bits of the flags that hold a `RowFormat`."""
SCALES_OUTPUT = 4
"""The flag of a gain of the module's outputs."""
SCALES_INPUT = 8
"""The flag of a gain of the module's inputs."""
KEEPS_BIAS = 16
"""The flag of a gain of outputs that leaves the bias as it is (DoRA)."""
