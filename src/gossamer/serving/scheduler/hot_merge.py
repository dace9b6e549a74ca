"""Merges the hot adapter into a copy of the base weights, for steps in which that is less work.

The original weights stay as they are, and each step runs on the one set or the other; so nothing is
ever subtracted from weights, and leaving merge mode brings back the same bits. All methods run on
the engine's thread; the copy is made in the background.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.stats import MergeStats
from gossamer.serving.scheduler.step import ScheduledChunk

MAX_BARRED = 16
"""Adapters remembered as those that could not be merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotLimits:
    """Says from when to when an adapter is hot."""

    window: int = 128
    """Steps that are looked back upon; an adapter becomes hot after that many at the earliest."""
    enter: float = 0.9
    """Share of the window's tokens from which an adapter is hot."""
    leave: float = 0.5
    """Share of the window's tokens below which a hot adapter no longer is."""


class HotAdapterPolicy:
    """Follows the tokens of steps and names the adapter to merge (dLoRA's idea, OSDI 2024).

    Two bounds and a full window between one choice and the next keep it from going back and forth.
    """

    def __init__(self, limits: HotLimits | None = None) -> None:
        self._limits = limits or HotLimits()
        self._steps: deque[tuple[dict[Hashable, int], int]] = deque()
        self._tokens: Counter[Hashable] = Counter()
        self._total = 0
        self._barred: deque[Hashable] = deque(maxlen=MAX_BARRED)
        self.hot: Hashable | None = None
        """The adapter to merge, if any."""
        self.num_chosen = 0
        self.num_dropped = 0

    def record(self, tokens: Mapping[Hashable, int], total: int) -> None:
        """Count a step of `total` tokens; `tokens` by adapter, for those that can be merged."""
        self._steps.append((dict(tokens), total))
        self._tokens.update(tokens)
        self._total += total
        if len(self._steps) > self._limits.window:
            old, old_total = self._steps.popleft()
            self._total -= old_total
            for adapter, count in old.items():
                self._tokens[adapter] -= count
                if not self._tokens[adapter]:
                    del self._tokens[adapter]
        self._decide()

    def drop(self, *, bar: bool = False) -> None:
        """Drop the hot adapter; with `bar`, it cannot be merged and is not named again."""
        if bar:
            self._barred.append(self.hot)
        self.hot = None
        self.num_dropped += 1
        # What was seen with it must not bring it back at once.
        self._steps.clear()
        self._tokens.clear()
        self._total = 0

    def share(self, adapter: Hashable) -> float:
        """Return its share of the window's tokens, from 0 to 1."""
        return self._tokens[adapter] / self._total if self._total else 0.0

    def _decide(self) -> None:
        if self.hot is not None:
            if self.share(self.hot) < self._limits.leave:
                self.drop()
            return
        if len(self._steps) < self._limits.window or not self._tokens:
            return
        most = max(self._tokens, key=self._tokens.__getitem__)
        if most not in self._barred and self.share(most) >= self._limits.enter:
            self.hot = most
            self.num_chosen += 1


log = logging.getLogger(__name__)

MERGEABLE = "low-rank"
"""The kind of which the difference to the merged weights is cheap."""

Merge = Callable[[AdapterEntry, threading.Event], Any]
"""Makes the layers with an adapter merged; None if the event was set meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Holds base layers with one adapter in their weights."""

    entry: AdapterEntry
    layers: Any
    """The merged layers, by those whose places they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    entry: AdapterEntry
    result: "Future[Any]"
    stop: threading.Event = field(default_factory=threading.Event)


class HotMerger:
    """Has the hot adapter merged, and tells which steps run on the merged weights."""

    def __init__(
        self,
        merge: Merge,
        *,
        policy: HotAdapterPolicy | None = None,
        threads: Executor | None = None,
    ) -> None:
        """`threads` is where weights are merged; a thread of its own unless given."""
        self.merge = merge
        self.policy = policy or HotAdapterPolicy()
        self._threads = threads or DaemonThreads("gossamer-merge", most=1)
        self._work: _Work | None = None
        self._merged: Merged | None = None
        self.num_merges = 0
        """Copies that were made and taken into use."""
        self.num_steps = 0
        """Steps that ran on merged weights."""

    @property
    def merged(self) -> Merged | None:
        """Return the merged copy that there is now."""
        return self._merged

    @property
    def merged_name(self) -> str | None:
        """Name the adapter of which there is a merged copy now."""
        merged = self._merged
        return merged.entry.name if merged is not None else None

    def stats(self) -> MergeStats:
        """Tell what was merged. From any thread."""
        return MergeStats(
            merged_adapter=self.merged_name,
            adapter_merges=self.num_merges,
            merged_steps=self.num_steps,
        )

    def follow(self) -> None:
        """Take over a copy that is ready, begin one, or drop one, as the policy has it."""
        hot = self.policy.hot
        if isinstance(hot, AdapterEntry) and hot.state is not AdapterState.RESIDENT:
            # Evicted, unloaded or replaced.
            self.policy.drop()
        self._collect()
        wanted = self.policy.hot
        if self._merged is not None and self._merged.entry is not wanted:
            self._merged = None
        if self._work is not None and self._work.entry is not wanted:
            self._work.stop.set()
        if isinstance(wanted, AdapterEntry) and self._merged is None and self._work is None:
            self._begin(wanted)

    def choose(self, step: Sequence[ScheduledChunk]) -> Merged | None:
        """Choose the weights for `step`; None: the original ones.

        Merged weights save the hot adapter's tokens their shrink and expand, and cost all others
        one: the majority decides.
        """
        tokens, total = _tokens(step)
        self.policy.record(tokens, total)
        merged = self._merged
        if merged is None or self.policy.hot is not merged.entry:
            return None
        if 2 * tokens[merged.entry] <= total:
            return None
        self.num_steps += 1
        return merged

    def close(self) -> None:
        """Stop the merging thread."""
        if self._work is not None:
            self._work.stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _begin(self, entry: AdapterEntry) -> None:
        stop = threading.Event()
        result = self._threads.submit(self.merge, entry, stop)
        self._work = _Work(entry=entry, result=result, stop=stop)

    def _collect(self) -> None:
        work = self._work
        if work is None or not work.result.done():
            return
        self._work = None
        if work.stop.is_set():
            return
        try:
            layers = work.result.result()
        except Exception as error:
            # No memory, or other files by now: it is served all the same, unmerged.
            log.warning("adapter %s is not merged: %s", work.entry.name, error)
            if self.policy.hot is work.entry:
                self.policy.drop(bar=True)
            return
        if self.policy.hot is work.entry:
            self._merged = Merged(entry=work.entry, layers=layers)
            self.num_merges += 1


def _tokens(step: Sequence[ScheduledChunk]) -> tuple["Counter[Any]", int]:
    """Tokens of each adapter that can be merged, and of the step."""
    tokens: Counter[Any] = Counter()
    for part in step:
        adapter = part.sequence.adapter
        if isinstance(adapter, AdapterEntry) and adapter.kind == MERGEABLE:
            tokens[adapter] += part.count
    return tokens, sum(part.count for part in step)
