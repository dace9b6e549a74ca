"""Decides which waiting requests may start: what fits beside the others, and what never will."""

from collections.abc import Iterable
from collections.abc import Sequence as List
from itertools import islice
from operator import itemgetter

from gossamer.errors import CapacityError, GossamerError, RequestError
from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.tenants import LimitsOf
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.scheduler.step import SchedulerLimits
from gossamer.serving.store.manager import AdapterManager

MAX_SKIPS = 64
"""A waiting request that this many later ones have overtaken, since there was no room for it, is
overtaken no more."""

Circumstances = tuple[AdapterState | None, int | None, int, int | None]
"""What the answer depends on: the adapter's state and size, how often pins have changed, and the
tenant's quota. A mixture's size may become known while its state stays: others have parts of it."""


class AdmissionControl:
    """Judges waiting requests by memory and quotas: not now (`fits`), or never (`refusals`)."""

    def __init__(
        self,
        running: List[Sequence],
        memory: MemoryManager,
        adapters: AdapterManager,
        limits: SchedulerLimits,
        limits_of: LimitsOf,
    ) -> None:
        self._running = running
        self._memory = memory
        self._adapters = adapters
        self._limits = limits
        self._limits_of = limits_of
        self._room: _Room | None = None
        self._quota = _ResidentQuota(running, limits_of)

    def running_changed(self) -> None:
        """Judge afresh: others run now."""
        self._room = None
        self._quota = _ResidentQuota(self._running, self._limits_of)

    def memory_changed(self) -> None:
        """Judge afresh what fits: blocks were given to an adapter."""
        self._room = None

    def fits(self, sequence: Sequence) -> bool:
        """Tell whether `sequence` may start now and, as far as is known, run to its end."""
        if self._room is None:
            self._room = _Room(self._running, self._memory, self._limits)
        return self._room.fits(sequence)

    def exceeds_quota(self, sequence: Sequence) -> bool:
        """Tell whether `sequence` has to wait for other requests of its tenant to end."""
        return self._quota.forbids(sequence)

    def refusals(self, waiting: Iterable[Sequence]) -> list[tuple[Sequence, GossamerError | None]]:
        """List those of `waiting` that can never run, each with the reason.

        None: it was put back, and has as many tokens already as it can get; it asked for no number.
        """
        found: list[tuple[Sequence, GossamerError | None]] = []
        quotas: dict[str, int | None] = {}
        for sequence in waiting:
            if sequence.tenant not in quotas:
                quotas[sequence.tenant] = self._limits_of(sequence.tenant).resident_bytes
            quota = quotas[sequence.tenant]
            if sequence.judged_in == self._circumstances(sequence, quota):
                continue
            error = self._refusal(sequence) or _quota_refusal(sequence, quota)
            sequence.judged_in = self._circumstances(sequence, quota)
            if error is not None or _has_all_it_can(sequence):
                found.append((sequence, error))
        return found

    def _circumstances(self, sequence: Sequence, quota: int | None) -> Circumstances:
        adapter, pins = sequence.adapter, self._memory.num_pin_changes
        if adapter is None:
            return None, None, pins, quota
        return adapter.state, adapter.num_bytes, pins, quota

    def _refusal(self, sequence: Sequence) -> GossamerError | None:
        """The adapter's error, or that the request does not fit beside it; None if it may run.

        A request that has said nothing yet takes the present version of an adapter that was
        replaced, and one that named no number of tokens is cut to what fits. Where that is no more
        than it has got already, `_has_all_it_can` is true of it afterwards.
        """
        try:
            self._take_present_version(sequence)
        except GossamerError as error:
            return error
        adapter = sequence.adapter
        if adapter is None:
            return self._beside_pinned(sequence)
        if adapter.error is not None:
            return adapter.error
        if adapter.num_blocks is None:
            return None
        if (too_long := self._context_refusal(sequence)) is not None:
            return too_long
        room = self._room_beside(adapter.num_blocks + self._memory.num_pinned_beside(adapter))
        if _cut_to(sequence, room):
            return None
        return CapacityError(
            f"beside adapter {adapter.name} the memory holds {room} tokens, and this request asks "
            f"for {sequence.num_prompt} + {sequence.max_new_tokens}; ask for fewer or serve with "
            "more --memory"
        )

    def _take_present_version(self, sequence: Sequence) -> None:
        adapter = sequence.adapter
        if adapter is None or sequence.num_generated:
            return
        if adapter.state is AdapterState.REPLACED:
            # Nothing was said yet with the version that is lost: the present one will do.
            present = self._adapters.look_up(adapter.name)
            sequence.adapter = self._adapters.swap_ref(adapter, present)

    def _room_beside(self, num_blocks: int) -> int:
        """Tokens that fit into the pool beside `num_blocks` blocks."""
        return max(0, self._memory.num_blocks - num_blocks) * self._limits.block_tokens

    def _beside_pinned(self, sequence: Sequence) -> GossamerError | None:
        """That a request of the base model does not fit beside pinned adapters."""
        if not self._memory.num_pinned_blocks:
            return None
        room = self._room_beside(self._memory.num_pinned_blocks)
        if _cut_to(sequence, room):
            return None
        return CapacityError(
            f"beside pinned adapters the memory holds {room} tokens, and this request asks for "
            f"{sequence.num_prompt} + {sequence.max_new_tokens}; ask for fewer or unpin some"
        )

    def _context_refusal(self, sequence: Sequence) -> GossamerError | None:
        """That the request does not fit behind its adapter's virtual tokens."""
        adapter, most = sequence.adapter, self._limits.max_context
        if adapter is None or most is None or not adapter.num_virtual_tokens:
            return None
        left = most - adapter.num_virtual_tokens
        if _cut_to(sequence, left):
            return None
        return RequestError(
            f"adapter {adapter.name} puts {adapter.num_virtual_tokens} virtual tokens before the "
            f"prompt, which leaves {left} of the context length of {most}; this request asks "
            f"for {sequence.num_prompt} + {sequence.max_new_tokens}",
            param="max_tokens",
        )


def _has_all_it_can(sequence: Sequence) -> bool:
    """Whether a request that was put back has got as many tokens as it may."""
    return sequence.num_generated > 0 and sequence.num_left <= 0


def _cut_to(sequence: Sequence, room: int) -> bool:
    """Whether `room` is enough; a request that named no number of tokens is cut to it."""
    is_open = sequence.request.sampling.max_tokens is None
    if is_open and (sequence.num_prompt < room or sequence.num_generated):
        # What it has said is said.
        most = max(room - sequence.num_prompt, sequence.num_generated)
        sequence.max_new_tokens = min(sequence.max_new_tokens, most)
        if _has_all_it_can(sequence):
            return True
    return sequence.num_prompt + sequence.max_new_tokens <= room


def _quota_refusal(sequence: Sequence, quota: int | None) -> GossamerError | None:
    """That its adapter alone takes more memory than its tenant may use."""
    adapter = sequence.adapter
    size = adapter.num_bytes if adapter is not None else None
    if adapter is None or quota is None or size is None or size <= quota:
        return None
    return CapacityError(
        f"adapter {adapter.name} takes {size} bytes and tenant '{sequence.tenant}' may use {quota} "
        "for the adapters of its running requests; ask for a larger resident_mib"
    )


def is_unread(adapter: AnyAdapter | None) -> bool:
    """Tell whether an adapter's rows are not in memory, or are on the way into the pool."""
    unread = (AdapterState.REGISTERED, AdapterState.LOADING, AdapterState.PLACING)
    return adapter is not None and adapter.state in unread


def is_kept_free_for(sequence: Sequence) -> bool:
    """Tell whether none may start meanwhile: overtaken often, it has memory for its adapter now."""
    is_placing = sequence.adapter is not None and sequence.adapter.state is AdapterState.PLACING
    return is_placing and sequence.num_skipped >= MAX_SKIPS


def blocks_for(num_tokens: int, block_tokens: int) -> int:
    """Return the blocks that hold the keys and values of `num_tokens`."""
    return -(-num_tokens // block_tokens)


def blocks_to_grow(decodes: Iterable[Sequence], budget: int, block_tokens: int) -> int:
    """Return the blocks that the first `budget` of `decodes` lack for one more token each.

    Prompts have had theirs since they were begun.
    """
    return sum(
        sequence.num_computed >= len(sequence.blocks) * block_tokens
        for sequence in islice(decodes, budget)
        if sequence.num_to_compute == 1
    )


def peak_blocks(sequences: Iterable[tuple[int, int]], block_tokens: int) -> int:
    """Return the most blocks that sequences (tokens held, tokens to come) will hold at a time.

    All grow by a token a step and leave when done, so the peak comes when one is about to leave:
    with the sequences in falling order of tokens to come, when the i-th leaves, those before it
    still run, each `to_come[i]` tokens longer (S-LoRA, arXiv 2311.03285, admission test of its
    released scheduler; here with each sequence rounded up to blocks).
    """
    ordered = sorted(sequences, key=itemgetter(1), reverse=True)
    most = held_sum = 0
    for count, (held, to_come) in enumerate(ordered, start=1):
        held_sum += held
        # Each sequence wastes less than one block of its own.
        tokens = held_sum + count * (to_come + block_tokens - 1)
        if tokens > most:
            most = tokens
    return most // block_tokens


class _Room:
    """Judges waiting sequences while the set of those that run does not change.

    What a sequence needs is told by three numbers. One that needs no less in any of them than
    another that did not fit does not fit either, so most of a long queue costs three comparisons.
    """

    def __init__(
        self, running: Iterable[Sequence], memory: MemoryManager, limits: SchedulerLimits
    ) -> None:
        self._memory = memory
        self._block_tokens = limits.block_tokens
        self._expected_new_tokens = limits.expected_new_tokens
        self._free = memory.num_free + memory.num_reclaimable()
        self._expected = [self._held_and_to_come(sequence) for sequence in running]
        self._held = sum(len(sequence.blocks) for sequence in running)
        self._rejected: list[tuple[int, int, int]] = []

    def fits(self, sequence: Sequence) -> bool:
        """Tell whether `sequence` may start now and, as far as is known, run to its end."""
        adapter = sequence.adapter
        if adapter is not None and not self._memory.fits(adapter):
            return False
        # Parts that are to be placed, or are idle and would no longer count as reclaimable: pinned
        # ones never did.
        adapter_blocks = sum(
            part.num_blocks or 0
            for part in (adapter.parts if adapter is not None else ())
            if part.state is not AdapterState.RESIDENT or not (part.users or part.pinned)
        )
        held, to_come = self._held_and_to_come(sequence)
        # What a running sequence holds anyway costs nothing.
        held -= self._memory.num_shared_in_use(sequence) * self._block_tokens
        for other in self._rejected:
            if adapter_blocks >= other[0] and held >= other[1] and to_come >= other[2]:
                return False
        if self._has_room(adapter_blocks, held, to_come):
            return True
        self._rejected.append((adapter_blocks, held, to_come))
        return False

    def _has_room(self, adapter_blocks: int, held: int, to_come: int) -> bool:
        if adapter_blocks + blocks_for(held, self._block_tokens) > self._free:
            return False
        if not self._expected:
            # Alone it fits: that was checked when it came.
            return True
        peak = peak_blocks([*self._expected, (held, to_come)], self._block_tokens)
        return adapter_blocks + peak <= self._free + self._held

    def _held_and_to_come(self, sequence: Sequence) -> tuple[int, int]:
        return len(sequence.token_ids), min(sequence.num_left, self._expected_new_tokens)


class _ResidentQuota:
    """Judges waiting sequences while the set of those that run does not change.

    An adapter counts once, however many of its tenant's requests, or mixtures, use it.
    """

    def __init__(self, running: List[Sequence], limits_of: LimitsOf) -> None:
        self._running = running
        self._limits_of = limits_of
        self._used: dict[str, set[AdapterEntry]] = {}
        self._quotas: dict[str, int | None] = {}

    def forbids(self, sequence: Sequence) -> bool:
        """Tell whether `sequence` has to wait for other requests of its tenant to end."""
        adapter = sequence.adapter
        if adapter is None or (quota := self._quota(sequence.tenant)) is None:
            return False
        used = self._in_use(sequence.tenant)
        return sum(entry.num_bytes or 0 for entry in used.union(adapter.parts)) > quota

    def _quota(self, tenant: str) -> int | None:
        if tenant not in self._quotas:
            self._quotas[tenant] = self._limits_of(tenant).resident_bytes
        return self._quotas[tenant]

    def _in_use(self, tenant: str) -> set[AdapterEntry]:
        if tenant not in self._used:
            self._used[tenant] = {
                entry
                for other in self._running
                if other.tenant == tenant and other.adapter is not None
                for entry in other.adapter.parts
            }
        return self._used[tenant]
