"""Which waiting requests may start: those that fit beside the others, and those that never will."""

from collections.abc import Iterable
from collections.abc import Sequence as List

from gossamer.errors import CapacityError, GossamerError, RequestError
from gossamer.serving.core.adapter import AdapterEntry, AdapterState
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.tenants import LimitsOf
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.scheduler.step import SchedulerLimits
from gossamer.serving.store.manager import AdapterManager

Circumstances = tuple[AdapterState | None, int | None, int, int | None]
"""What the answer depends on: the adapter's state and size, how often pins have changed, and the
tenant's quota. A mixture's size may become known while its state stays: others have parts of it."""


def take_stock(
    waiting: Iterable[Sequence],
    adapters: AdapterManager,
    pool: BlockPool,
    limits: SchedulerLimits,
    limits_of: LimitsOf,
) -> list[tuple[Sequence, GossamerError | None]]:
    """Those of `waiting` that can never run, each with the reason.

    None: it was put back, and has as many tokens already as it can get; it asked for no number.
    """
    found: list[tuple[Sequence, GossamerError | None]] = []
    quotas: dict[str, int | None] = {}
    for sequence in waiting:
        if sequence.tenant not in quotas:
            quotas[sequence.tenant] = limits_of(sequence.tenant).resident_bytes
        quota = quotas[sequence.tenant]
        if sequence.judged_in == _circumstances(sequence, adapters, quota):
            continue
        error = refusal(sequence, adapters, pool, limits.block_tokens, limits.max_context)
        error = error or quota_refusal(sequence, quota)
        sequence.judged_in = _circumstances(sequence, adapters, quota)
        if error is not None or has_all_it_can(sequence):
            found.append((sequence, error))
    return found


def _circumstances(
    sequence: Sequence, adapters: AdapterManager, quota: int | None
) -> Circumstances:
    adapter = sequence.adapter
    if adapter is None:
        return None, None, adapters.pins.num_changes, quota
    return adapter.state, adapter.num_bytes, adapters.pins.num_changes, quota


def refusal(
    sequence: Sequence,
    adapters: AdapterManager,
    pool: BlockPool,
    block_tokens: int,
    max_context: int | None = None,
) -> GossamerError | None:
    """The adapter's error, or that the request does not fit beside it; None if it may run.

    A request that has said nothing yet takes the present version of an adapter that was replaced,
    and one that named no number of tokens is cut to what fits. Where that is no more than it has
    got already, `has_all_it_can` is true of it afterwards.
    """
    adapter = sequence.adapter
    if adapter is None:
        return _beside_pinned(sequence, adapters, pool, block_tokens)
    if adapter.state is AdapterState.REPLACED and not sequence.num_generated:
        # Nothing was said yet with the version that is lost: the present one will do.
        try:
            adapter = adapters.swap_ref(adapter, adapters.look_up(adapter.name))
            sequence.adapter = adapter
        except GossamerError as error:
            return error
    if adapter.error is not None:
        return adapter.error
    if adapter.num_blocks is None:
        return None
    if max_context is not None and adapter.num_virtual_tokens:
        left = max_context - adapter.num_virtual_tokens
        if (too_long := _context_refusal(sequence, left, max_context)) is not None:
            return too_long
    taken = adapter.num_blocks + adapters.pins.beside(adapter)
    room = max(0, pool.num_blocks - taken) * block_tokens
    if _fits(sequence, room):
        return None
    return CapacityError(
        f"beside adapter {adapter.name} the memory holds {room} tokens, and this request asks "
        f"for {sequence.num_prompt} + {sequence.max_new_tokens}; ask for fewer or serve with "
        "more --memory"
    )


def has_all_it_can(sequence: Sequence) -> bool:
    """Whether a request that was put back has got as many tokens as it may."""
    return sequence.num_generated > 0 and sequence.num_left <= 0


def _fits(sequence: Sequence, room: int) -> bool:
    """Whether `room` is enough; a request that named no number of tokens is cut to it."""
    is_open = sequence.request.sampling.max_tokens is None
    if is_open and (sequence.num_prompt < room or sequence.num_generated):
        # What it has said is said.
        most = max(room - sequence.num_prompt, sequence.num_generated)
        sequence.max_new_tokens = min(sequence.max_new_tokens, most)
        if has_all_it_can(sequence):
            return True
    return sequence.num_prompt + sequence.max_new_tokens <= room


def _beside_pinned(
    sequence: Sequence, adapters: AdapterManager, pool: BlockPool, block_tokens: int
) -> GossamerError | None:
    """That a request of the base model does not fit beside pinned adapters."""
    if not adapters.num_pinned_blocks:
        return None
    room = (pool.num_blocks - adapters.num_pinned_blocks) * block_tokens
    if _fits(sequence, room):
        return None
    return CapacityError(
        f"beside pinned adapters the memory holds {room} tokens, and this request asks for "
        f"{sequence.num_prompt} + {sequence.max_new_tokens}; ask for fewer or unpin some"
    )


def _context_refusal(sequence: Sequence, left: int, max_context: int) -> GossamerError | None:
    """That the request does not fit behind virtual tokens."""
    if _fits(sequence, left):
        return None
    assert sequence.adapter is not None
    return RequestError(
        f"adapter {sequence.adapter.name} puts {max_context - left} virtual tokens before the "
        f"prompt, which leaves {left} of the context length of {max_context}; this request asks "
        f"for {sequence.num_prompt} + {sequence.max_new_tokens}",
        param="max_tokens",
    )


def quota_refusal(sequence: Sequence, quota: int | None) -> GossamerError | None:
    """That its adapter alone takes more memory than its tenant may use."""
    adapter = sequence.adapter
    size = adapter.num_bytes if adapter is not None else None
    if adapter is None or quota is None or size is None or size <= quota:
        return None
    return CapacityError(
        f"adapter {adapter.name} takes {size} bytes and tenant '{sequence.tenant}' may use {quota} "
        "for the adapters of its running requests; ask for a larger resident_mib"
    )


def blocks_for(num_tokens: int, block_tokens: int) -> int:
    """Blocks that hold the keys and values of `num_tokens`."""
    return -(-num_tokens // block_tokens)


def peak_blocks(sequences: Iterable[tuple[int, int]], block_tokens: int) -> int:
    """Most blocks that sequences (tokens held, tokens to come) will hold at one time.

    All grow by a token a step and leave when done, so the peak comes when one is about to leave:
    with the sequences in falling order of tokens to come, when the i-th leaves, those before it
    still run, each `to_come[i]` tokens longer (S-LoRA, arXiv 2311.03285, admission test of its
    released scheduler; here with each sequence rounded up to blocks).
    """
    ordered: List[tuple[int, int]] = sorted(sequences, key=lambda pair: -pair[1])
    peak = held_sum = 0
    for count, (held, to_come) in enumerate(ordered, start=1):
        held_sum += held
        # Each sequence wastes less than one block of its own.
        tokens = held_sum + count * (to_come + block_tokens - 1)
        peak = max(peak, tokens // block_tokens)
    return peak


class Room:
    """Judges waiting sequences while the set of those that run does not change.

    What a sequence needs is told by three numbers. One that needs no less in any of them than
    another that did not fit does not fit either, so most of a long queue costs three comparisons.
    """

    def __init__(
        self,
        running: Iterable[Sequence],
        pool: BlockPool,
        adapters: AdapterManager,
        *,
        block_tokens: int,
        expected_new_tokens: int,
    ) -> None:
        self._adapters = adapters
        self._block_tokens = block_tokens
        self._expected_new_tokens = expected_new_tokens
        self._free = pool.num_free + adapters.num_reclaimable()
        self._expected = [self._held_and_to_come(sequence) for sequence in running]
        self._held = sum(len(sequence.blocks) for sequence in running)
        self._rejected: list[tuple[int, int, int]] = []

    def fits(self, sequence: Sequence) -> bool:
        """Whether `sequence` may start now and, as far as is known, run to its end."""
        adapter = sequence.adapter
        if adapter is not None and not self._adapters.can_acquire(adapter):
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
        held -= self._adapters.prefixes.num_hits_in_use(sequence) * self._block_tokens
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


class ResidentQuota:
    """Judges waiting sequences while the set of those that run does not change.

    An adapter counts once, however many of its tenant's requests, or mixtures, use it.
    """

    def __init__(self, running: List[Sequence], limits_of: LimitsOf) -> None:
        self._running = running
        self._limits_of = limits_of
        self._used: dict[str, set[AdapterEntry]] = {}
        self._quotas: dict[str, int | None] = {}

    def forbids(self, sequence: Sequence) -> bool:
        """Whether `sequence` has to wait for other requests of its tenant to end."""
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
