"""Adapters that arrive: bytes per second, and what steps feel of it."""

import threading
import time
from collections.abc import Sequence

import torch

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.packing.packer import HostAdapter
from lease_sections.frame import Found, Lease
from lease_sections.graph_steps import LINEAR, make_steps, place_adapters
from model_steps import Steps, blocks_for, chunk

SEQUENCES, PLACES, RANK = 64, 512, 16


def loading(lease: Lease) -> Found:
    """Copies of one adapter from pageable and from pinned memory, then beside decode steps."""
    sequences, places = (2, 20) if lease.dry else (SEQUENCES, PLACES)
    of_sequences = sequences * blocks_for(places + 1)
    steps = make_steps(lease, 32, of_sequences + (400 if lease.dry else 600))
    steps.pool[: of_sequences * steps.layout.block_bytes].zero_()
    entries, _, free = place_adapters(steps, RANK, LINEAR, 2, of_sequences)
    found: Found = {}
    packed = {
        "pageable": steps.pack_random(RANK, LINEAR),
        "pinned": steps.pack_random(RANK, LINEAR, empty=steps.device.host_empty),
    }
    rounds = 2 if lease.dry else 20
    for name, adapter in packed.items():
        found[f"{name}_gb_s"] = _bandwidth(steps, adapter, free, rounds)
    step_rounds = 3 if lease.dry else 300
    quiet = _steps(steps, entries, sequences, places, step_rounds)
    stop, copied = threading.Event(), [0]
    thread = threading.Thread(
        target=_keep_copying, args=(steps, packed["pinned"], free, stop, copied)
    )
    thread.start()
    try:
        busy = _steps(steps, entries, sequences, places, step_rounds)
    finally:
        stop.set()
        thread.join()
    found |= {
        "step_ms": 1e3 * _at(quiet, 0.5), "quiet_p99_ms": 1e3 * _at(quiet, 0.99),
        "busy_p99_ms": 1e3 * _at(busy, 0.99), "arrived": copied[0],
    }  # fmt: skip
    return found


def _bandwidth(steps: Steps, adapter: HostAdapter, first_block: int, rounds: int) -> float:
    copier = steps.device.copier(steps.pool)
    blocks = list(range(first_block, first_block + adapter.num_blocks))
    copier.place(adapter, blocks, 0).join()
    started = time.perf_counter()
    for ticket in [copier.place(adapter, blocks, 0) for _ in range(rounds)]:
        ticket.join()
    return 1e-9 * rounds * adapter.num_bytes / (time.perf_counter() - started)


def _keep_copying(
    steps: Steps, adapter: HostAdapter, first_block: int, stop: threading.Event, copied: list[int]
) -> None:
    copier = steps.device.copier(steps.pool)
    blocks = list(range(first_block, first_block + adapter.num_blocks))
    while not stop.is_set():
        copier.place(adapter, blocks, 0).join()
        copied[0] += 1


def _steps(
    steps: Steps, entries: Sequence[AdapterEntry], sequences: int, places: int, rounds: int
) -> list[float]:
    """Seconds from one step's end to the next's: built, computed and waited for, one by one."""
    each = blocks_for(places + 1)
    chunks = [
        chunk(entries[i % len(entries)], computed=places - 1, first_block=i * each, token=1 + i)
        for i in range(sequences)
    ]
    found = []
    for round_ in range(rounds + 1):
        started = time.perf_counter()
        logits = steps.prepare(chunks)()
        steps.device.step_launched()
        steps.device.fetch(logits[:, :1].contiguous()).result()
        if round_:
            found.append(time.perf_counter() - started)
    return found


def _at(values: list[float], share: float) -> float:
    return float(torch.tensor(values).quantile(share))


def says(found: Found) -> str:
    """One line."""
    return (
        f"{found['pageable_gb_s']:.1f} GB/s pageable, {found['pinned_gb_s']:.1f} pinned; 99th "
        f"percentile of steps {found['quiet_p99_ms']:.2f} ms, {found['busy_p99_ms']:.2f} while "
        f"{found['arrived']} adapters arrive"
    )
