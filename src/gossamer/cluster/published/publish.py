"""Publishes an adapter: its files into the store, then its name in the catalog."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from gossamer.adapters.inspect import AdapterInfo, inspect
from gossamer.cluster.published.catalog import (
    AdapterCatalog,
    PublishedAdapter,
    check_published_name,
)
from gossamer.cluster.published.store import ADAPTERS, FILES, SharedStore
from gossamer.errors import AdapterError, UnsupportedAdapterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Shows what was published."""

    name: str
    adapter: AdapterInfo
    place: str
    """Where it lies in the store."""
    former: PublishedAdapter | None
    """What the name meant before."""
    copied: bool
    """Whether its files were copied; else the store had them, whole and undamaged."""


def publish_adapter(
    folder: Path, catalog: AdapterCatalog, store: SharedStore, name: str | None = None
) -> Publication:
    """Publish the adapter in `folder` as `name` (None: as its folder is called).

    Its files come to lie at `adapters/NAME/DIGEST` in the store before the name means them, so a
    server that looks the name up finds them whole; requests that run keep the former ones. Files
    that are there already are read and, where they are not what the digest says, replaced.

    Raises `RequestError` for what cannot be a name, `AdapterError`s for what is no adapter or is of
    a type that is not served, `StorageError`.
    """
    adapter = inspect(folder)
    if adapter.kind == "other":
        raise UnsupportedAdapterError(
            f"adapter {adapter.name} is of a type ({adapter.method}) that is not served"
        )
    name = adapter.name if name is None else name
    check_published_name(name)
    place = f"{ADAPTERS}/{name}/{adapter.digest}"
    catalog.reserve(name, place)
    copied = not _is_whole(store, place, adapter.digest)
    if copied:
        store.put(folder, place, adapter.digest)
    former = catalog.move(
        name,
        digest=adapter.digest,
        place=place,
        num_bytes=sum((folder / file).stat().st_size for file in FILES),
        kind=adapter.kind,
        rank=adapter.rank,
    )
    return Publication(name=name, adapter=adapter, place=place, former=former, copied=copied)


def _is_whole(store: SharedStore, place: str, digest: str) -> bool:
    """Whether the adapter of that digest lies at `place`, bit by bit."""
    if not store.holds(place):
        return False
    with tempfile.TemporaryDirectory(prefix="gossamer-publish-") as scratch:
        try:
            store.fetch(place, Path(scratch))
            return inspect(Path(scratch)).digest == digest
        except AdapterError:
            return False
