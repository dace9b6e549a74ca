"""Takes in what steps compute: in two parts, so that the next step can be planned in between.

`advance` counts the tokens of a step as computed once it is in flight, and keeps places for the
tokens that it will give. `postprocess` and `record_token` take in its result. What has ended
meanwhile is passed over, and its token given up.
"""

from collections.abc import Sequence as List

from gossamer.serving.core.sequence import UNKNOWN, Sequence
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.scheduler.prefix_fills import PrefixFills
from gossamer.serving.scheduler.step import ScheduledChunk


class Progress:
    """Moves the sequences of a step on; `running` are those that hold blocks."""

    def __init__(self, running: List[Sequence], memory: MemoryManager, fills: PrefixFills) -> None:
        self._running = running
        self._memory = memory
        self._fills = fills
        self.ending: set[Sequence] = set()
        """Sequences that get their last token from the step in flight."""

    def advance(self, step: list[ScheduledChunk]) -> None:
        """Count the tokens of `step` as computed. The step before has been taken in."""
        for part in step:
            sequence = part.sequence
            if part.scored:
                sequence.unscored = sequence.num_computed + part.scored.stop + 1
            sequence.num_computed += part.count
            if part.is_due:
                sequence.token_ids.append(UNKNOWN)
                if sequence.num_left <= 0:
                    self.ending.add(sequence)

    def postprocess(self, step: list[ScheduledChunk]) -> None:
        """Take in that `step`, which was advanced, was computed: others may use its blocks."""
        self.ending.clear()
        running = set(self._running)
        shared: list[Sequence] = []
        for part in step:
            sequence = part.sequence
            if sequence.prefix_of is not None:
                self._fills.computed(sequence)
            elif sequence in running:
                shared.append(sequence)
        self._memory.share(shared)

    def failed(self, step: list[ScheduledChunk], error: Exception) -> list[Sequence]:
        """Take in that `step` could not be computed; returns the requests that are to be ended."""
        for part in step:
            if part.sequence.prefix_of is not None:
                self._fills.failed(part.sequence, error)
        return [part.sequence for part in step if part.sequence.prefix_of is None]
