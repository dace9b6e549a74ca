"""Tells which adapter a name means now; any thread may ask."""

import threading
from pathlib import Path
from typing import Protocol

from gossamer.errors import GossamerError, RequestError, UnknownModelError
from gossamer.serving.core.adapter import AdapterEntry, AnyAdapter, Blend, parse_blend
from gossamer.serving.store.folder import MAX_NAME, is_plain, signature, unknown

MIN_LOOK = 256
"""With this many entries, and whenever they have doubled since, those of folders that have gone are
forgotten."""


class Folder(Protocol):
    """Finds adapters by looking (`AdapterFolder`)."""

    def names(self) -> list[str]:
        """List the names of all adapters now."""

    def look_up(self, name: str) -> AdapterEntry:
        """Make a fresh entry, of another name if `name` is an alias; raises `UnknownModelError`."""


class AdapterNames:
    """Knows names found in folders, given at run time, and taken away at run time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._current: dict[str, AdapterEntry] = {}
        self._given: dict[str, Path] = {}
        self._hidden: set[str] = set()
        self._look_again_at = MIN_LOOK

    def look_up(self, name: str) -> AnyAdapter:
        """Find the adapter `name`, or several with weights (`parse_blend`).

        What the signs of a mixture are in is one, whatever folders there are: access is judged by
        the names that `adapters_in` finds. Raises `UnknownModelError`, the reason why an
        adapter is refused, or `RequestError` for weights that make no sense.
        """
        parts = parse_blend(name)
        if parts is None:
            return self.look_up_one(name)
        entries = tuple(self.look_up_one(part) for part, _ in parts)
        blend = Blend(entries, tuple(weight for _, weight in parts))
        if blend.error is not None:
            raise blend.error.with_traceback(None)
        return blend

    def look_up_one(self, name: str) -> AdapterEntry:
        """Find the entry for the files under `name`; the same one as long as they do not change.

        An alias has no entry of its own: it finds that of the adapter for which it stands.
        """
        entry = self._entry(name)
        if entry.error is not None:
            # One error for many callers: their frames must not pile up in its traceback.
            raise entry.error.with_traceback(None)
        return entry

    def all(self) -> list[tuple[str, AdapterEntry]]:
        """List all names with their entries, refused ones and aliases included.

        Raises `AdapterReadError`.
        """
        found = []
        names = self.names()
        self._forget_gone(names)
        for name in names:
            try:
                found.append((name, self._entry(name)))
            except GossamerError:  # it has gone since
                continue
        return found

    def names(self) -> list[str]:
        """List all names that can be asked for now. Raises `AdapterReadError`."""
        found = self._folder.names()
        if self._given:
            found = sorted({*found, *list(self._given)})
        return [name for name in found if name not in self._hidden] if self._hidden else found

    def known(self) -> list[AdapterEntry]:
        """List the entries that were looked up so far; no file is looked at."""
        with self._lock:
            return list(self._current.values())

    def is_current(self, entry: AdapterEntry) -> bool:
        """Tell whether its name still means this version."""
        return self._current.get(entry.name) is entry

    def forget(self, entry: AdapterEntry) -> None:
        """Have its name looked up afresh."""
        with self._lock:
            if self._current.get(entry.name) is entry:
                del self._current[entry.name]

    def peek(self, name: str) -> AdapterEntry | None:
        """Return what `name` meant when it was last looked up; no file is looked at."""
        return self._current.get(name)

    def find(self, name: str) -> AdapterEntry:
        """Find as `look_up_one` does, but refused ones too."""
        return self._entry(name)

    def prepare(self, name: str, path: Path | None) -> AdapterEntry:
        """Make an entry for the adapter in `path` (None: the one in the folders), for `give`.

        Raises `UnknownModelError`.
        """
        return self._fresh(name, False, path if path is not None else self._given.get(name))

    def give(self, name: str, path: Path | None, entry: AdapterEntry | None = None) -> AdapterEntry:
        """Let `name` mean the adapter in `path` (None: the one found in the folders) from now on.

        `entry` is what `prepare` found there. Files that were tried before and refused are tried
        again. Raises `UnknownModelError`.
        """
        entry = entry or self.prepare(name, path)
        with self._lock:
            self._hidden -= {name, entry.name}
            if path is not None:
                self._given[name] = path
            known = self._current.get(entry.name)
            is_good = known is not None and known.error is None and not known.draining
            if known is None or not is_good or not known.is_version_of(entry):
                known = self._current[entry.name] = entry
            return known

    def hide(self, alias: str) -> None:
        """Let `alias` mean nothing; the adapter for which it stood keeps its own name."""
        with self._lock:
            self._hidden.add(alias)

    def switch(self, entry: AdapterEntry) -> None:
        """Let its name mean `entry`, which has been prepared and read, from now on."""
        with self._lock:
            self._hidden.discard(entry.name)
            self._given[entry.name] = entry.path
            self._current[entry.name] = entry

    def take(self, name: str) -> AdapterEntry:
        """Let `name` mean nothing. Raises `UnknownModelError` if it does already."""
        entry = self.peek(name) or self._entry(name)
        with self._lock:
            self._given.pop(name, None)
            self._hidden.add(name)
            return self._current.pop(name, entry)

    def _entry(self, name: str) -> AdapterEntry:
        while True:
            meaning = self._meaning(name)
            try:
                fresh = self._fresh(name, *meaning)
            except UnknownModelError:
                with self._lock:
                    self._drop_if_idle(name)
                raise
            with self._lock:
                if self._meaning(name) != meaning:
                    # Given or taken away while the files were looked at.
                    continue
                if fresh.name == name:
                    known = self._current.get(name)
                    if known is None or not known.is_version_of(fresh):
                        known = self._current[name] = fresh
                else:
                    # A link, maybe in the place of files that were there.
                    self._current.pop(name, None)
                    known = None
                is_full = len(self._current) >= self._look_again_at
            if is_full:
                self._look_for_gone()
            # An alias means whatever the adapter's own name means now.
            return known if known is not None else self._entry(fresh.name)

    def _meaning(self, name: str) -> tuple[bool, Path | None]:
        return name in self._hidden, self._given.get(name)

    def _fresh(self, name: str, is_hidden: bool, path: Path | None) -> AdapterEntry:
        if is_hidden:
            raise unknown(name, self.names())
        if path is None:
            return self._folder.look_up(name)
        found = signature(path)
        if not found:
            raise unknown(name, self.names())
        return AdapterEntry(name=name, path=path, signature=found)

    def _look_for_gone(self) -> None:
        try:
            self._forget_gone(self.names())
        except GossamerError:  # a disk that fails now is looked at when there are twice as many
            self._look_again_at *= 2

    def _forget_gone(self, names: list[str]) -> None:
        """Keep no entries of folders that are there no more; `names` are all that can be named."""
        known = set(names)
        with self._lock:
            for name in [name for name in self._current if name not in known]:
                self._drop_if_idle(name)
            self._look_again_at = max(MIN_LOOK, 2 * len(self._current))

    def _drop_if_idle(self, name: str) -> None:
        entry = self._current.get(name)
        if entry is not None and not (entry.requests or entry.users):
            del self._current[name]


def check_name(name: str, base: str) -> None:
    """Raise `RequestError` for what cannot be the name of an adapter."""
    if not is_plain(name):
        raise RequestError(
            f"'{name[:MAX_NAME]}' cannot be an adapter's name; use at most {MAX_NAME} printable "
            "characters other than / \\ + :",
            param="lora_name",
        )
    if name == base:
        raise RequestError(f"'{name}' is the base model's name", param="lora_name")
