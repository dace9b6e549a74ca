"""Replays of decode steps on the machine's GPU: the bits of the same steps without a graph."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.device.make import make_device
from gossamer.serving.scheduler.step import ScheduledChunk
from lease_sections.frame import Found, Lease
from model_steps import Steps, blocks_for, chunk, entry_of, llama_3_8b, tiny_llama

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = LINEAR[:4]


def make_steps(lease: Lease, num_layers: int, num_blocks: int) -> Steps:
    """Llama-3-8B with so many layers on the lease's GPU; a tiny one in a dry run."""
    torch.manual_seed(0)
    device = make_device(lease.device.type, backend="triton")
    steps = Steps(tiny_llama() if lease.dry else llama_3_8b(num_layers), device, num_blocks)
    # Not a number, so that a step which reads what none has written shows it.
    steps.pool.fill_(255)
    return steps


def place_adapters(
    steps: Steps, rank: int, targets: Sequence[str], count: int, first_block: int, seed: int = 0
) -> tuple[list[AdapterEntry], int, int]:
    """Place an adapter `count` times; returns them, the bytes of one, and the next free block.

    All have the same numbers in places of their own, which costs what different ones do.
    """
    packed = steps.pack_random(rank, targets, seed)
    size = packed.num_blocks
    entries = [
        entry_of(
            packed.place(steps.pool, range(first_block + i * size, first_block + (i + 1) * size))
        )
        for i in range(count)
    ]
    return entries, packed.num_bytes, first_block + count * size


def graphs(lease: Lease) -> Found:
    """Steps with and without adapters, padded or full, each computed both ways."""
    steps = make_steps(lease, 2, 400)
    first, _, free = place_adapters(steps, 4, LINEAR, 3, 200, seed=1)
    second, *_ = place_adapters(steps, 9, ATTENTION, 2, free, seed=2)
    numbers = range(3 if lease.dry else 11)
    adapters: list[list[AdapterEntry | None]] = [
        [None] * len(numbers),
        [(first + second)[i % 5] for i in numbers],
        [(second + first)[i % 5] for i in numbers],
        [first[0] for _ in numbers],
        [None if i % 2 else second[0] for i in numbers],
    ]
    if lease.dry:
        adapters = adapters[1:3]
    _fill_keys_and_values(steps, len(numbers))
    found: Found = {"steps": 0, "different": []}
    for index, entries in enumerate(adapters):
        chunks = [
            chunk(entry, computed=3 + i + index, first_block=i * blocks_for(64), token=1 + i)
            for i, entry in enumerate(entries)
        ]
        replayed, eager = _both(steps, chunks)
        found["steps"] += 1
        if not torch.equal(replayed, eager):
            off = float((replayed - eager).abs().max())
            found["different"].append(f"step {index}: {off:.1e}")
        if not torch.isfinite(replayed).all():
            found["different"].append(f"step {index}: not finite")
    return found


def _both(steps: Steps, chunks: list[ScheduledChunk]) -> tuple[Tensor, Tensor]:
    """The logits of a step by its graph, and as a step that is like no other."""
    batch = steps.builder.build(chunks)
    replayed = steps.model.run(batch).clone()
    return replayed, steps.model.run(replace(batch, key=None)).clone()


def _fill_keys_and_values(steps: Steps, sequences: int) -> None:
    """Compute the places that decodes look back at, by a step like no other."""
    steps.prepare(
        [
            chunk(None, computed=0, count=24, first_block=i * blocks_for(64), token=2)
            for i in range(sequences)
        ]
    )()


def says(found: Found) -> str:
    """One line."""
    wrong = "; ".join(found["different"]) or "none different from the same step without a graph"
    return f"{found['steps']} replays, {wrong}"
