"""Whose adapter to copy first, of those who wait."""

from collections.abc import Iterable

from gossamer.serving.blend import AnyAdapter
from gossamer.serving.sequence import Sequence


def by_slack(waiting: Iterable[Sequence], slo: float | None, now: float) -> list[AnyAdapter]:
    """The distinct adapters of `waiting`, least slack first; as they come without a promise.

    Slack: seconds left of the promised `slo` to the first token, less those that copying takes.
    """
    slack: dict[AnyAdapter, float] = {}
    for sequence in waiting:
        if sequence.adapter is None or sequence.adapter in slack:
            continue
        copying = sum(part.place_seconds for part in sequence.adapter.parts)
        slack[sequence.adapter] = sequence.arrived + slo - now - copying if slo else 0.0
    return sorted(slack, key=slack.__getitem__)
