"""A rank other than 0: it does what rank 0 announces, until rank 0 says stop or is gone.

`python -m gossamer.cluster.tensor_parallel.follower SECONDS LOAD_SECONDS` is how rank 0 starts one;
see `join`.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gossamer.children import follow_parent, say_ready
from gossamer.cluster.tensor_parallel.group import ProcessRanks, join
from gossamer.cluster.tensor_parallel.loading import load_together
from gossamer.cluster.tensor_parallel.messages import (
    CheckAdapters,
    Decoder,
    EvictAdapter,
    ForgetRows,
    LoadAdapter,
    MergeAdapter,
    PlaceAdapter,
    RunStep,
    StartModel,
    StepPart,
    Stop,
)
from gossamer.cluster.tensor_parallel.numbered import NumberedAdapter, NumberedResident
from gossamer.errors import AdapterReplacedError, BaseMismatchError, GossamerError
from gossamer.serving.engine.assemble import Base, load_base, make_loader
from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.runner.merged_weights import LayerMerger
from gossamer.serving.settings import ServeSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MirroredEntry:
    """An adapter as a batch is built from it; see `AdapterEntry`."""

    name: str
    table: NumberedResident | None = None
    rows: HostAdapter | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MirroredUses:
    """The adapters of some neighbours in a step; see `AnyAdapter`."""

    uses: tuple[tuple[MirroredEntry, float], ...]

    @property
    def parts(self) -> tuple[MirroredEntry, ...]:
        """Return the adapters alone."""
        return tuple(entry for entry, _ in self.uses)


@dataclass(frozen=True, slots=True)
class MirroredMerge:
    """Merged weights; rank 0 has taken the adapter out of what the tokens meet."""

    layers: Mapping[Any, Any]
    entry: None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MirroredSequence:
    """A sequence as far as a step needs it; see `Sequence`."""

    adapter: MirroredUses
    num_computed: int
    num_prompt: int
    blocks: list[int]
    prefix_of: MirroredEntry | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MirroredChunk:
    """A sequence's part of a step; see `StepView`."""

    sequence: MirroredSequence
    tokens: list[int]
    is_due: bool
    scored: range

    @property
    def count(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)


class Follower:
    """Mirrors rank 0's adapters, blocks and steps."""

    def __init__(self, ranks: ProcessRanks, settings: ServeSettings, base: Base) -> None:
        self._ranks = ranks
        self._base = base
        self._loader = make_loader(settings, base)
        self._merger = LayerMerger(self._loader, base.model.modules)
        self._decoder = Decoder()
        self.rows: dict[int, NumberedAdapter] = {}
        """What is in host memory, by number."""
        self.residents: dict[int, tuple[NumberedResident, list[int]]] = {}
        """What is in the pool, and in which blocks, by number."""
        self._merged: dict[int, Mapping[Any, Any]] = {}
        self._loads = _Worker("gossamer-adapters")
        self._merges = _Worker("gossamer-merge")

    def follow(self) -> None:
        """Do what rank 0 says until it says stop. Raises `RuntimeError` when it is gone."""
        while True:
            message = self._decoder.decode(self._ranks.control.receive())
            match message:
                case Stop():
                    return
                case RunStep():
                    self._run(message)
                case LoadAdapter():
                    self._loads.do(partial(self._load, message))
                case CheckAdapters():
                    self._check(message)
                case PlaceAdapter():
                    self._place(message)
                case EvictAdapter():
                    self.residents.pop(message.number, None)
                case ForgetRows():
                    self._forget(message)
                case MergeAdapter():
                    self._merges.do(partial(self._merge, message.number))

    def _run(self, step: RunStep) -> None:
        chunks = self._chunks(step.parts)
        merged = None
        if step.merged:
            merged = MirroredMerge(self._merged[step.merged])
        batch = self._base.builder.build(chunks, merged)
        self._base.model.run(batch)
        for _ in self._base.model.scored_logits(batch):
            pass

    def _chunks(self, parts: list[StepPart]) -> list[MirroredChunk]:
        """Make the chunks of a step in rank 0's order: neighbours of the same adapters share one
        object, and the others have one each, by which nothing is put in another order."""
        chunks = []
        before, uses = None, MirroredUses(())
        for part in parts:
            if before is None or part.uses != before.uses:
                met = [(self._resident(number), weight) for number, weight in part.uses]
                uses = MirroredUses(tuple(met))
            before = part
            prefix = None
            if part.prefix_of:
                prefix = MirroredEntry("prefix", rows=self.rows[part.prefix_of])
            sequence = MirroredSequence(
                adapter=uses,
                num_computed=part.num_computed,
                num_prompt=part.num_prompt,
                blocks=part.blocks,
                prefix_of=prefix,
            )
            chunks.append(
                MirroredChunk(
                    sequence=sequence,
                    tokens=part.tokens,
                    is_due=part.is_due,
                    scored=part.scored,
                )
            )
        return chunks

    def _resident(self, number: int) -> MirroredEntry:
        return MirroredEntry(str(number), table=self.residents[number][0])

    def _load(self, message: LoadAdapter) -> None:
        """On the loading thread."""

        def read() -> Any:
            adapter = self._loader.read(Path(message.path))
            if adapter.digest != message.digest:
                raise AdapterReplacedError(f"adapter {message.name} was replaced on disk")
            return adapter

        def keep(share: HostAdapter) -> None:
            # Before the ranks agree: rank 0 may have it placed as soon as they have.
            self.rows[message.number] = NumberedAdapter.of(share, message.number)

        try:
            load_together(read, message.name, self._loader.packer, self._ranks, keep)
        except GossamerError as error:
            self.rows.pop(message.number, None)
            log.warning("rank %d: %s", self._ranks.rank, error)

    def _place(self, message: PlaceAdapter) -> None:
        ticket = self._loader.place(self.rows[message.number], message.blocks, 0)
        ticket.wait()
        self.residents[message.number] = (ticket.result(), message.blocks)

    def _check(self, message: CheckAdapters) -> None:
        own = {str(number): blocks for number, (_, blocks) in self.residents.items()}
        if own != message.blocks:
            log.error("rank %d has %s, rank 0 %s", self._ranks.rank, own, message.blocks)
        self._ranks.any_differs(own != message.blocks)

    def _forget(self, message: ForgetRows) -> None:
        for number in message.numbers:
            self.rows.pop(number, None)
            self._merged.pop(number, None)

    def _merge(self, number: int) -> None:
        """On the merging thread."""
        failed = False
        try:
            layers = self._merger.merged(self.rows[number], threading.Event())
            assert layers is not None
            self._merged[number] = layers
        except Exception:
            log.exception("rank %d could not merge an adapter", self._ranks.rank)
            failed = True
        self._ranks.any_failed(failed)


class _Worker:
    """A thread that does one thing after the other; one that fails ends the process."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def do(self, work: Callable[[], None]) -> None:
        """Have `work` done after what was given before."""
        self._work.put(work)

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except BaseException:
                # Ranks that no longer agree must not go on.
                log.exception("a rank has failed")
                os._exit(1)


def follow(seconds: float, load_seconds: float) -> None:
    """Be a rank other than 0, from joining the others to the end of rank 0."""
    ranks = join(seconds, load_seconds)
    message = Decoder().decode(ranks.control.receive())
    if isinstance(message, Stop):
        return
    assert isinstance(message, StartModel)
    settings = ServeSettings.parse(message.settings, where="rank 0")
    base = load_base(settings, Path(message.folder), ranks)
    if base.fingerprint != message.fingerprint:
        raise BaseMismatchError(f"{message.folder} holds another model here than on rank 0")
    Follower(ranks, settings, base).follow()
    ranks.close()


def main(arguments: list[str]) -> int:
    """Follow rank 0, which is the parent of this process."""
    follow_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    say_ready()
    try:
        follow(*map(float, arguments))
    except GossamerError as error:
        log.error("rank %s: %s", os.environ.get("RANK"), error)
        return 1
    except RuntimeError as error:
        log.warning("rank %s ends: %s", os.environ.get("RANK"), str(error).splitlines()[:1])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
