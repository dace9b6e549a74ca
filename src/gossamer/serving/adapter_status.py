"""An adapter as clients see it."""

from gossamer.serving.adapter_entry import AdapterEntry, AdapterState
from gossamer.serving.interface import AdapterStatus


def status_of(entry: AdapterEntry) -> AdapterStatus:
    """What is known of `entry` now."""
    return AdapterStatus(
        name=entry.name,
        state=state_of(entry),
        kind=entry.kind,
        rank=entry.rank,
        num_bytes=entry.num_bytes,
        digest=entry.digest,
        problem=str(entry.error) if entry.error is not None else None,
        created=int(entry.signature[-1][2] // 1_000_000_000) if entry.signature else 0,
        pinned=entry.pinned,
        requests=entry.requests,
        hits=entry.hits,
        last_used=entry.used_at,
    )


def state_of(entry: AdapterEntry) -> str:
    """Its state by name; `loading` until it is resident, whatever is done to it meanwhile."""
    if entry.draining and entry.state is not AdapterState.REMOVED:
        return "draining"
    return "loading" if entry.state is AdapterState.PLACING else entry.state.value
