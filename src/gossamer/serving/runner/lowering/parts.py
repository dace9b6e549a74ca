"""Finds the trained parts that the tokens of a step meet."""

from collections.abc import Sequence

import torch

from gossamer.kernels.trained_parts.shift import make_shifts
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.lowering.part_batch import PartBatch
from gossamer.serving.runner.lowering.step import Met, StepView

Part = tuple[StepView, int, Met]
"""A sequence's part of the batch, its first token, and the adapters that its tokens meet."""


def make_parts(parts: Sequence[Part], device: torch.device) -> PartBatch | None:
    """Return what `parts` meet, None if it is nothing; tensors are on `device`."""
    met = [
        (start, part.count, resident, weight)
        for part, start, residents in parts
        for resident, weight in residents
        if resident.has_trained_parts
    ]
    if not met:
        return None
    shifts = [
        (start, count, resident.shift, weight)
        for start, count, resident, weight in met
        if resident.shift is not None
    ]
    runs = _runs(met)
    embeddings = [(n, c, (r.embedding, r.embedding_factors)) for n, c, r in runs]
    outputs = [(n, c, (r.output, r.output_factors)) for n, c, r in runs]
    return PartBatch(
        shifts=make_shifts(shifts, device) if shifts else None,
        bottlenecks=[(n, c, r.bottleneck) for n, c, r in runs if r.bottleneck is not None],
        sides=[(n, c, r.side) for n, c, r in runs if r.side is not None],
        streams=[(n, c, r.streams) for n, c, r in runs if r.streams is not None],
        embeddings=[(n, c, t) for n, c, tables in embeddings for t in tables if t is not None],
        outputs=[(n, c, t) for n, c, tables in outputs for t in tables if t is not None],
    )


def _runs(met: Sequence[tuple[int, int, Resident, float]]) -> list[tuple[int, int, Resident]]:
    """Join neighbours of one adapter: its tokens lie side by side."""
    runs: list[tuple[int, int, Resident]] = []
    for start, count, resident, _ in met:
        if runs and runs[-1][2] is resident and sum(runs[-1][:2]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + count, resident)
        else:
            runs.append((start, count, resident))
    return runs
