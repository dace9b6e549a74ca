"""Why a waiting request can never run, or can run no more, if that is so."""

from collections.abc import Iterable

from gossamer.errors import CapacityError, GossamerError, RequestError
from gossamer.serving.adapter_entry import AdapterState
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.block_pool import BlockPool
from gossamer.serving.scheduling.step import SchedulerLimits
from gossamer.serving.scheduling.tenants import LimitsOf
from gossamer.serving.sequence import Sequence

Circumstances = tuple[AdapterState | None, int | None, int, int | None]
"""What the answer depends on: the adapter's state and size, how often pins have changed, and the
tenant's quota. A mixture's size may become known while its state stays: others have parts of it."""


def take_stock(
    waiting: Iterable[Sequence],
    adapters: AdapterStore,
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


def _circumstances(sequence: Sequence, adapters: AdapterStore, quota: int | None) -> Circumstances:
    adapter = sequence.adapter
    if adapter is None:
        return None, None, adapters.pins.num_changes, quota
    return adapter.state, adapter.num_bytes, adapters.pins.num_changes, quota


def refusal(
    sequence: Sequence,
    adapters: AdapterStore,
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
            adapter = adapters.exchange(adapter, adapters.look_up(adapter.name))
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
    sequence: Sequence, adapters: AdapterStore, pool: BlockPool, block_tokens: int
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
