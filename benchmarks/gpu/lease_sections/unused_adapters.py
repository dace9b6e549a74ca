"""Steps without adapters, beside resident ones and in a pool that never had any."""

import statistics
import time

from gossamer.serving.scheduler.step import ScheduledChunk
from lease_sections.frame import Found, Lease
from lease_sections.graph_steps import LINEAR, make_steps, place_adapters
from model_steps import Steps, blocks_for, chunk

SEQUENCES, PLACES, ADAPTERS, RANK = 64, 512, 16, 16
LAYERS = 8
"""Fewer than a whole model's: what a step costs beside them weighs more, not less."""


def unused(lease: Lease) -> Found:
    """Steps of two models in turns, built, computed and waited for, of the same sequences."""
    sequences, places, count = (2, 20, 2) if lease.dry else (SEQUENCES, PLACES, ADAPTERS)
    each = blocks_for(places + 1)
    of_sequences = sequences * each
    num_blocks = of_sequences + count * (80 if lease.dry else 60)
    never, served = (make_steps(lease, LAYERS, num_blocks) for _ in range(2))
    for steps in (never, served):
        steps.pool[: of_sequences * steps.layout.block_bytes].zero_()
    entries, *_ = place_adapters(served, RANK, LINEAR, count, of_sequences)

    def chunks(with_adapters: bool) -> list[ScheduledChunk]:
        return [
            chunk(
                entries[i % count] if with_adapters else None,
                computed=places - 1, first_block=i * each, token=1 + i,
            )
            for i in range(sequences)
        ]  # fmt: skip

    # Twice: what is captured is replayed.
    for _ in range(2):
        _seconds(served, chunks(True))
    plain = chunks(False)
    keys = [steps.builder.build(plain).key for steps in (never, served)]
    found: dict[str, list[float]] = {"never": [], "served": []}
    for round_ in range(2 if lease.dry else 203):
        pair = [("never", never), ("served", served)]
        for name, steps in pair[:: -1 if round_ % 2 else 1]:
            found[name].append(_seconds(steps, plain))
    # The first compile, capture and warm up.
    never_s, served_s = (found[name][0 if lease.dry else 3 :] for name in ("never", "served"))
    ratios = [b / a for a, b in zip(never_s, served_s, strict=True)]
    return {
        "never_ms": 1e3 * statistics.median(never_s),
        "served_ms": 1e3 * statistics.median(served_s),
        "cost": statistics.median(ratios) - 1, "same_graph": keys[0] == keys[1],
    }  # fmt: skip


def _seconds(steps: Steps, chunks: list[ScheduledChunk]) -> float:
    started = time.perf_counter()
    logits = steps.prepare(chunks)()
    steps.device.step_launched()
    steps.device.fetch(logits[:, :1].contiguous()).result()
    return time.perf_counter() - started


def says(found: Found) -> str:
    """One line."""
    return (
        f"{found['never_ms']:.3f} ms without adapters, {found['served_ms']:.3f} beside idle ones "
        f"({found['cost']:+.1%}), graphs of {'one' if found['same_graph'] else 'DIFFERENT'} kind"
    )
