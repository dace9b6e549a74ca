"""Keeps the requests that have not had their final event yet."""

from gossamer.serving.core.sequence import Sequence
from gossamer.serving.engine.output import Generation
from gossamer.serving.runner.sampling.sampler import SamplingState


class OpenRequests:
    """Keeps requests from `submit` to the final event, each with what tells its events.

    Any thread may take requests in and end them; only the engine's thread moves them on.
    """

    def __init__(self) -> None:
        self._arriving: dict[Sequence, Generation] = {}
        """Taken in; the engine's thread has not seen them yet."""
        self._seen: dict[Sequence, Generation] = {}
        self._by_id: dict[str, Sequence] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def sequences(self) -> list[Sequence]:
        """List all of them."""
        return list(self._by_id.values())

    def seen(self) -> list[Sequence]:
        """List those that the engine's thread has seen."""
        return list(self._seen)

    def arriving(self) -> list[Sequence]:
        """List those that it has not seen yet."""
        return list(self._arriving)

    def find(self, request_id: str) -> Sequence | None:
        """Find a request by its id."""
        return self._by_id.get(request_id)

    def add(self, generation: Generation) -> None:
        """Take a request in."""
        sequence = generation.sequence
        self._by_id[sequence.request.request_id] = sequence
        self._arriving[sequence] = generation

    def mark_seen(self, sequence: Sequence) -> bool:
        """Mark `sequence` as seen by the engine's thread; False if it has ended meanwhile."""
        generation = self._arriving.pop(sequence, None)
        if generation is not None:
            self._seen[sequence] = generation
        return generation is not None

    def is_seen(self, sequence: Sequence) -> bool:
        """Tell whether `sequence` is open and the engine's thread has seen it."""
        return sequence in self._seen

    def generation(self, sequence: Sequence) -> Generation | None:
        """Return what turns the tokens of `sequence` into events; None unless `is_seen`."""
        return self._seen.get(sequence)

    def sampling(self, sequence: Sequence) -> SamplingState:
        """Return what sampling keeps of `sequence`, which was seen."""
        return self._seen[sequence].sampling

    def pop(self, sequence: Sequence) -> Generation | None:
        """Forget `sequence`; returns what tells its end, if that was not told yet."""
        generation = self._seen.pop(sequence, None) or self._arriving.pop(sequence, None)
        if generation is not None:
            self._by_id.pop(sequence.request.request_id, None)
        return generation
