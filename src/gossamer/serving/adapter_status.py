"""An adapter as clients see it."""

from gossamer.serving.adapter_entry import AdapterEntry, AdapterState
from gossamer.serving.blend import Blend
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


def status_of_blend(blend: Blend, name: str) -> AdapterStatus:
    """What is known of a mixture that is asked for as `name`; as far as its last part."""
    parts = [status_of(part) for part in blend.parts]
    kinds = {part.kind for part in parts}
    return AdapterStatus(
        name=name,
        state="loading" if blend.state is AdapterState.PLACING else blend.state.value,
        kind=kinds.pop() if len(kinds) == 1 else "mixture",
        rank=blend.rank or None,
        num_bytes=blend.num_bytes,
        created=max(part.created for part in parts),
    )


def state_of(entry: AdapterEntry) -> str:
    """Its state by name; `loading` until it is resident, whatever is done to it meanwhile."""
    if entry.draining and entry.state is not AdapterState.REMOVED:
        return "draining"
    return "loading" if entry.state is AdapterState.PLACING else entry.state.value
