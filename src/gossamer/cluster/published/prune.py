"""Removes from the store what no name means any more and no request can need."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from gossamer.cluster.published.catalog import AdapterCatalog, FormerVersion
from gossamer.cluster.published.store import SharedStore
from gossamer.errors import GossamerError

PAGE = 500
"""Versions that are asked for at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """Shows what was removed, or would be."""

    removed: tuple[FormerVersion, ...]
    """Versions whose time was over."""
    noted: int
    """Folders of the store that the catalog did not know, whose time begins now."""
    kept: int
    """Versions that no name means and that stay: their time is not over, or they failed."""
    failed: tuple[tuple[str, GossamerError], ...] = ()
    """Places that could not be removed and why; the next call tries them again."""


def prune(
    catalog: AdapterCatalog,
    store: SharedStore,
    keep_seconds: float,
    *,
    unnamed: bool = False,
    dry_run: bool = False,
    now: float | None = None,
) -> Pruned:
    """Remove the files of versions that no name has meant for `keep_seconds`.

    Only requests that were resolved before a version ended can need it, and only until their
    replica has fetched it into its own cache, which holds it until they end. So `keep_seconds` must
    be longer than an ingress may go without seeing the catalog, and than a publication takes.

    unnamed: also note what lies in the store and the catalog knows nothing of, such as of a
        publication that was broken off; it is removed by a later call, when its time is over.
    dry_run: change nothing, and say what would be removed.
    now: the Unix time; None: this moment.

    A place that the store cannot remove holds up no other; `failed` names it. Raises
    `StorageError` if the catalog cannot be asked, or the store not be listed; what was removed
    until then stays removed, and the next call goes on.
    """
    before = (time.time() if now is None else now) - keep_seconds
    noted = 0
    if unnamed and not dry_run:
        places = store.places()
        while page := list(islice(places, PAGE)):
            noted += catalog.note_unnamed(page)
    removed: list[FormerVersion] = []
    failed: list[tuple[str, GossamerError]] = []
    for version in _ended(catalog, before):
        if not dry_run:
            if not catalog.begin_removing(version.place, before):
                continue
            try:
                store.remove(version.place)
            except GossamerError as error:
                failed.append((version.place, error))
                continue
            catalog.end_removing(version.place)
        removed.append(version)
    left = catalog.count_former() - (len(removed) if dry_run else 0)
    return Pruned(removed=tuple(removed), noted=noted, kept=left, failed=tuple(failed))


def _ended(catalog: AdapterCatalog, before: float) -> Iterator[FormerVersion]:
    after = ""
    while page := catalog.former(before, after, PAGE):
        yield from page
        after = page[-1].place
