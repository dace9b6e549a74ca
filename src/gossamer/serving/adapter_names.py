"""Which adapter a name means now. Any thread may ask."""

import threading
from pathlib import Path
from typing import Protocol

from gossamer.errors import GossamerError, RequestError, UnknownModelError
from gossamer.serving.adapter_entry import AdapterEntry
from gossamer.serving.adapter_folder import signature, unknown
from gossamer.serving.blend import AnyAdapter, Blend, parse_blend


class Folder(Protocol):
    """Adapters that are found by looking (`AdapterFolder`)."""

    def names(self) -> list[str]:
        """Names of all adapters now."""

    def look_up(self, name: str) -> AdapterEntry:
        """A fresh entry; raises `UnknownModelError`."""


class AdapterNames:
    """Names found in folders, names given at run time, and names taken away at run time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._current: dict[str, AdapterEntry] = {}
        self._given: dict[str, Path] = {}
        self._hidden: set[str] = set()

    def look_up(self, name: str) -> AnyAdapter:
        """The adapter `name`, or several with weights (`blend.parse_blend`).

        Raises `UnknownModelError`, the reason why an adapter is refused, or `RequestError` for
        weights that make no sense.
        """
        try:
            return self.look_up_one(name)
        except UnknownModelError:
            parts = parse_blend(name)
            if parts is None:
                raise
        entries = tuple(self.look_up_one(part) for part, _ in parts)
        blend = Blend(entries, tuple(weight for _, weight in parts))
        if blend.error is not None:
            raise blend.error.with_traceback(None)
        return blend

    def look_up_one(self, name: str) -> AdapterEntry:
        """The entry for the files under `name` now; the same one as long as they do not change."""
        entry = self._entry(name)
        if entry.error is not None:
            # One error for many callers: their frames must not pile up in its traceback.
            raise entry.error.with_traceback(None)
        return entry

    def all(self) -> list[AdapterEntry]:
        """Entries of all names, refused ones included."""
        found = []
        for name in self.names():
            try:
                found.append(self._entry(name))
            except GossamerError:  # it has gone since
                continue
        return found

    def names(self) -> list[str]:
        """All names that can be asked for now."""
        found = self._folder.names()
        if self._given:
            found = sorted({*found, *self._given})
        return [name for name in found if name not in self._hidden] if self._hidden else found

    def known(self) -> list[AdapterEntry]:
        """The entries that were looked up so far; no file is looked at."""
        with self._lock:
            return list(self._current.values())

    def is_current(self, entry: AdapterEntry) -> bool:
        """Whether its name still means this version."""
        return self._current.get(entry.name) is entry

    def forget(self, entry: AdapterEntry) -> None:
        """Have its name looked up afresh."""
        with self._lock:
            if self._current.get(entry.name) is entry:
                del self._current[entry.name]

    def give(self, name: str, path: Path | None) -> AdapterEntry:
        """Let `name` mean the adapter in `path` (None: the one found in the folders) from now on.

        Files that were tried before and refused are tried again. Raises `UnknownModelError`.
        """
        with self._lock:
            self._hidden.discard(name)
            if path is not None:
                self._given[name] = path
            known = self._current.get(name)
            if known is not None and (known.error is not None or known.draining):
                del self._current[name]
        return self._entry(name)

    def take(self, name: str) -> AdapterEntry:
        """Let `name` mean nothing. Raises `UnknownModelError` if it does already."""
        entry = self._entry(name)
        with self._lock:
            self._given.pop(name, None)
            self._hidden.add(name)
            self._current.pop(name, None)
        return entry

    def _entry(self, name: str) -> AdapterEntry:
        fresh = self._fresh(name)
        with self._lock:
            known = self._current.get(name)
            if known is None or known.signature != fresh.signature:
                known = self._current[name] = fresh
        return known

    def _fresh(self, name: str) -> AdapterEntry:
        if name in self._hidden:
            raise unknown(name, self.names())
        path = self._given.get(name)
        if path is None:
            return self._folder.look_up(name)
        found = signature(path)
        if not found:
            raise unknown(name, self.names())
        return AdapterEntry(name=name, path=path, signature=found)


def check_name(name: str, base: str) -> None:
    """Raise `RequestError` for what cannot be the name of an adapter."""
    is_plain = name.isprintable() and name == name.strip() and not set(name) & set("/\\+:")
    if not name or len(name) > 200 or not is_plain or name in (".", ".."):
        raise RequestError(
            f"'{name[:200]}' cannot be an adapter's name; use at most 200 printable characters "
            "other than / \\ + :",
            param="lora_name",
        )
    if name == base:
        raise RequestError(f"'{name}' is the base model's name", param="lora_name")
