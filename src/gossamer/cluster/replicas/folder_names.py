"""What names mean where replicas look into folders themselves, as an ingress asks for each request.

The ingress finds out whether there is such an adapter, and what other names stand for it; each
replica then finds the files by its own look at the folder.
"""

from collections.abc import Iterable
from pathlib import Path

from gossamer.serving.core.adapter import AnyAdapter, Blend
from gossamer.serving.core.stats import AdapterStatus, status_of, status_of_blend
from gossamer.serving.store.folder import AdapterFolder
from gossamer.serving.store.names import AdapterNames


class FolderNames:
    """Finds adapters in folders that all replicas see at the same path (`Names`).

    Any thread may ask; each call looks at the disk.
    """

    how_to_add = "put adapters into a folder of --adapters; replicas find them there"
    """What to do instead of loading one through an ingress."""

    def __init__(self, folders: Iterable[Path], base: str) -> None:
        """`base` is the base model's name."""
        self._names = AdapterNames(AdapterFolder(*folders, base=base))

    def look_up(self, name: str) -> AnyAdapter:
        """See `AdapterNames.look_up`."""
        return self._names.look_up(name)

    def statuses(self) -> list[AdapterStatus]:
        """List all adapters that can be named now. Raises `AdapterReadError`."""
        return [status_of(entry, name) for name, entry in self._names.all()]

    def statuses_after(self, name: str, limit: int) -> list[AdapterStatus]:
        """List at most `limit` adapters in the order of names, from the first one after `name`."""
        return [each for each in self.statuses() if each.name > name][:limit]

    def statuses_near(self, model: str) -> list[AdapterStatus]:
        """List all adapters, among them those that `model` may mean."""
        return self.statuses()

    def status(self, name: str) -> AdapterStatus:
        """Show what `name` means. Raises as `look_up`."""
        found = self.look_up(name)
        return status_of_blend(found, name) if isinstance(found, Blend) else status_of(found, name)

    def count(self) -> int:
        """Count the adapters that can be named now. Raises `AdapterReadError`."""
        return len(self._names.names())

    def note_asked(self, name: str) -> None:
        """Do nothing: there is no catalog that would be told."""

    def tell_asked(self) -> None:
        """Do nothing, as above."""

    def close(self) -> None:
        """Do nothing: no file is kept open."""
