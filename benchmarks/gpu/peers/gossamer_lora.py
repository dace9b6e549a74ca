"""This project's grouped LoRA on the work of `peers.work`."""

import numpy as np
import torch

from gossamer.kernels.bundles import make_bundles
from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.kernels.grouped_lora.device_table import MAX_RANK, vector_bytes, write_table
from gossamer.kernels.grouped_lora.triton_kernels import SLAB, TritonGroupedLora
from gossamer.kernels.runs import Run
from gossamer.kernels.scratch import ScratchMemory
from peers.work import Factors, Prepared

NAME = "gossamer"


def prepare(factors: Factors) -> Prepared:
    """Put rows, then tables, into a pool; rows are bfloat16, whatever x is."""
    group, work = factors.group, factors.work
    modules = range(len(group.widths))
    device = torch.device(factors.device)
    num_rows_bytes = factors.least_bytes
    tables, rows, low = [], [], 0
    places, table_low = [], num_rows_bytes
    for slot, rank in enumerate(work.ranks):
        offsets = []
        for m, width in enumerate(group.widths):
            offsets += [low + i * group.h_in for i in range(rank)]
            low += rank * group.h_in
            offsets += [low + i * width for i in range(rank)]
            low += rank * width
            rows += [factors.a[slot][m].reshape(-1), factors.b[slot][m].T.reshape(-1)]
        table = LoraTable(
            first_row=np.array([2 * rank * m for m in modules]),
            rank=np.full(len(modules), rank, np.int32),
            scale=np.ones(len(modules), np.float32),
            offsets=np.array(offsets, dtype=np.int64),
            row_scale=np.ones(2 * rank * len(modules), np.float32),
            format=RowFormat.BFLOAT16,
        )
        sizes = vector_bytes(len(modules), table.rank, table.format)
        tables.append(np.empty(int(sizes.sum()), np.uint8))
        write_table(table, None, table_low + np.cumsum(sizes) - sizes, tables[-1])
        places.append(table_low)
        table_low += len(tables[-1])
    pool = torch.empty(table_low, dtype=torch.uint8, device=device)
    if device.type != "meta":
        pool[:num_rows_bytes] = torch.cat(rows).to(torch.bfloat16).view(torch.uint8)
        pool[num_rows_bytes:] = torch.from_numpy(np.concatenate(tables)).to(device)
    each = work.tokens_each
    runs = [Run(slot * each, each, slot) for slot in range(len(work.ranks))]
    bundles = make_bundles(runs, places, work.ranks, 8).to(device)
    scratch = ScratchMemory(device)
    slabs = -(-group.h_in // SLAB)
    memory = scratch.take(slabs * bundles.rows * len(modules) * MAX_RANK)
    operation = TritonGroupedLora(
        pool, list(modules), group.widths, group.h_in, scratch, formats=[RowFormat.BFLOAT16]
    )
    y = factors.y.clone()
    metadata = [
        bundles.first, bundles.count, bundles.entry, bundles.entry_table, bundles.entry_weight,
        bundles.entry_row, pool[num_rows_bytes:],
    ]  # fmt: skip
    return Prepared(
        launch=lambda: operation.add_(y, factors.x, bundles),
        y=y,
        buffers={
            "rows": [pool[:num_rows_bytes]], "x": [factors.x], "y": [y], "scratch": [memory],
            "metadata": metadata,
        },
        parts={
            "shrink": lambda: operation.shrink(factors.x, bundles),
            "expand": lambda: operation.expand_(y, memory, bundles),
        },
    )  # fmt: skip
