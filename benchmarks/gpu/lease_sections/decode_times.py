"""Whole decode steps of Llama-3-8B in graphs: time, beside the bytes that must be read."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from gossamer.serving.core.adapter import AdapterEntry
from lease_sections.frame import Found, Lease
from lease_sections.graph_steps import ATTENTION, LINEAR, make_steps, place_adapters
from model_steps import Steps, blocks_for, chunk

SIZES = (1, 8, 32, 64, 128)
PLACES = 512
"""Of each sequence."""
RANK = 16
ADAPTERS = 64
"""Of each sort; a step of more tokens meets each twice."""


def decode(lease: Lease) -> Found:
    """Every number of tokens without adapters, with one, and with one for each token."""
    sizes = (2,) if lease.dry else SIZES
    places = 20 if lease.dry else PLACES
    count = 2 if lease.dry else ADAPTERS
    each = blocks_for(places + 1)
    of_sequences = each * max(sizes)
    steps = make_steps(lease, 32, of_sequences + count * (80 if lease.dry else 60))
    steps.pool[: of_sequences * steps.layout.block_bytes].zero_()
    free, sorts = of_sequences, {}
    for name, targets in (("attention", ATTENTION), ("all", LINEAR)):
        entries, num_bytes, free = place_adapters(steps, RANK, targets, count, free)
        sorts[name] = (entries, num_bytes)
    found: Found = {}
    for size in sizes:
        kv_bytes = size * places * steps.layout.block_bytes // steps.layout.block_tokens
        base_bytes = steps.weight_bytes + kv_bytes
        found[f"{size}, none"] = _measured(lease, steps, size, [None], places, base_bytes)
        for name, (entries, num_bytes) in sorts.items():
            for label, used in (("1", entries[:1]), ("distinct", entries)):
                if lease.left < 10:
                    return found
                floor = base_bytes + num_bytes * min(size, len(used))
                found[f"{size}, {name} {label}"] = _measured(
                    lease, steps, size, used, places, floor
                )
    return found


def _measured(
    lease: Lease, steps: Steps, size: int, entries: Sequence[AdapterEntry | None], places: int,
    num_bytes: int,
) -> dict[str, Any]:  # fmt: skip
    each = blocks_for(places + 1)
    chunks = [
        chunk(entries[i % len(entries)], computed=places - 1, first_block=i * each, token=1 + i)
        for i in range(size)
    ]
    batch = steps.builder.build(chunks)
    steps.model.run(batch)
    rounds = 1 if lease.dry else 15
    started = time.perf_counter()
    for _ in range(rounds):
        steps.builder.build(chunks)
    host = (time.perf_counter() - started) / rounds
    return {
        "ms": 1e3 * _replayed(lease, steps, batch, rounds), "host_ms": 1e3 * host,
        "floor_bytes": num_bytes,
    }  # fmt: skip


def _replayed(lease: Lease, steps: Steps, batch: Any, rounds: int) -> float:
    """Seconds of a replay, the median; weights and adapters are far more than caches hold."""
    if lease.device.type != "cuda":
        started = time.perf_counter()
        steps.model.run(batch)
        return time.perf_counter() - started
    found = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        steps.model.run(batch)
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return sorted(found)[len(found) // 2]


def says(found: Found) -> str:
    """Milliseconds of all."""
    return "; ".join(f"{name}: {of['ms']:.2f} ms" for name, of in found.items())
