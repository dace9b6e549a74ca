"""What steps consist of and how long their parts take, for /metrics."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gossamer.serving.blend import AnyAdapter
from gossamer.serving.histogram import Histogram, HistogramStats

ADAPTER_BOUNDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
RANK_BOUNDS = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
PARTS = ("build", "model", "sampling")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """A snapshot of sums over all steps."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Spent on building batches, on the model, and on choosing tokens."""
    adapters: HistogramStats = field(default_factory=Histogram(ADAPTER_BOUNDS).stats)
    """Distinct adapters in a step."""
    rank: HistogramStats = field(default_factory=Histogram(RANK_BOUNDS).stats)
    """Their ranks together."""


class StepFigures:
    """Counts steps; used by the engine's thread."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._adapters = Histogram(ADAPTER_BOUNDS)
        self._rank = Histogram(RANK_BOUNDS)

    def observe(self, adapters: Iterable[AnyAdapter], moments: tuple[float, ...]) -> None:
        """A step with `adapters`; `moments`: its begin, and the end of each of `PARTS`."""
        parts = {entry for adapter in adapters for entry in adapter.parts}
        self._adapters.observe(len(parts))
        self._rank.observe(sum(entry.rank or 0 for entry in parts))
        for part, begin, end in zip(PARTS, moments, moments[1:], strict=False):
            self._seconds[part] += end - begin

    def stats(self) -> StepStats:
        """A snapshot."""
        return StepStats(
            seconds=dict(self._seconds), adapters=self._adapters.stats(), rank=self._rank.stats()
        )
