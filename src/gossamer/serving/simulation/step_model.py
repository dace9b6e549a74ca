"""Predicts how long a step takes, as a sum of six terms."""

import json
from collections.abc import Sequence as Items
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Self

from gossamer.serving.scheduler.step import ScheduledChunk

Features = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Predicts the seconds of a step; `benchmarks/step_times.py` fits the coefficients."""

    base: float
    """The seconds of any step."""
    prompt_token: float
    """For each token of a prompt."""
    decode: float
    """For each sequence that decodes."""
    context_token: float
    """For each token whose keys and values are read."""
    rank: float
    """For each unit of rank of each distinct adapter."""
    any_adapter: float
    """For having adapters at all."""

    def seconds(self, step: Items[ScheduledChunk]) -> float:
        """Predict how long `step` takes, as it is planned."""
        pairs = zip(astuple(self), features(step), strict=True)
        return sum(coefficient * feature for coefficient, feature in pairs)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` has written."""
        return cls(**json.loads(path.read_text())["coefficients"])

    def save(self, path: Path, **notes: object) -> None:
        """Write JSON, with `notes` about where the figures come from."""
        path.write_text(json.dumps({**notes, "coefficients": asdict(self)}, indent=2) + "\n")


def features(step: Items[ScheduledChunk]) -> Features:
    """Return what the coefficients are multiplied with, in their order."""
    prompts = decodes = context = 0
    adapters = set()
    for part in step:
        if part.sequence.is_decoding:
            decodes += 1
        else:
            prompts += part.count
        context += part.sequence.num_computed + part.count
        if part.sequence.adapter is not None:
            adapters.add(part.sequence.adapter)
    ranks = sum(adapter.rank or 0 for adapter in adapters)
    return (1.0, prompts, decodes, context, ranks, float(bool(adapters)))
