"""Whose adapters to read before their turn."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from gossamer.serving.adapter_entry import AdapterState
from gossamer.serving.adapter_store import AdapterStore
from gossamer.serving.scheduling.resident_quota import ResidentQuota
from gossamer.serving.sequence import Sequence

LOAD_AHEAD = 8
"""The adapters of so many requests at the head of the queue are read ahead of admission, whatever
their size."""


def read_ahead(
    waiting: Iterable[Sequence], adapters: AdapterStore, quota: ResidentQuota, most: int
) -> None:
    """Have the adapters of the first `most` of `waiting` read in the background, as far as there is
    memory for them."""
    left = adapters.host.max_bytes
    for number, sequence in enumerate(islice(_in_nobodys_way(waiting, quota), most)):
        adapter = sequence.adapter
        if adapter is None or adapter.state is AdapterState.RESIDENT:
            continue
        # What is read and waited for stays in memory until it is placed.
        left -= adapter.file_bytes
        if left < 0 and number >= LOAD_AHEAD:
            break
        adapters.start_load(adapter)


def _in_nobodys_way(waiting: Iterable[Sequence], quota: ResidentQuota) -> Iterator[Sequence]:
    """Without those who wait for other requests of their tenant, and those behind many such: they
    would take the places of other tenants."""
    held_back: Counter[str] = Counter()
    for sequence in waiting:
        adapter = sequence.adapter
        is_known = adapter is not None and adapter.num_bytes is not None
        if is_known and quota.forbids(sequence):
            held_back[sequence.tenant] += 1
        elif held_back[sequence.tenant] < LOAD_AHEAD:
            yield sequence
