"""The store that servers share, a folder or an fsspec URL, and each server's own cache of it."""

import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from gossamer.adapters.inspect import inspect
from gossamer.adapters.layout import CONFIG_FILE, WEIGHTS_FILE
from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.errors import (
    AdapterError,
    AdapterFormatError,
    AdapterReadError,
    SettingError,
    StorageError,
)
from gossamer.files import flush_all, replacing_folder, storing

FILES = (WEIGHTS_FILE, CONFIG_FILE)
"""What is published of an adapter folder; the config, which makes it an adapter, comes last."""
ADAPTERS = "adapters"
"""The folder of a store in which places begin: adapters/NAME/DIGEST."""
YOUNG_SECONDS = 60.0
"""An adapter that was used so lately is not removed: another process may be about to read it."""
LOOK_SECONDS = 30.0
"""After so long it is counted again what other processes have put into the folder."""
STALE_SECONDS = 3600.0
"""Half-made folders that are older were left by a process that is no more."""
_SCRATCH = ".fetch-"


class SharedStore(Protocol):
    """Keeps adapter folders at places that are relative paths."""

    def put(self, folder: Path, place: str, digest: str) -> None:
        """Keep the adapter in `folder`, which has that digest, at `place`, instead of what may lie
        there. Raises `StorageError`, also for a copy that has another digest."""

    def fetch(self, place: str, into: Path) -> None:
        """Copy what lies at `place` into the empty folder `into`. Raises `AdapterReadError` if it
        cannot be read now."""

    def holds(self, place: str) -> bool:
        """Tell whether a whole adapter lies at `place`."""

    def places(self) -> Iterator[str]:
        """List all places adapters/NAME/DIGEST at which something lies, whole or not."""

    def remove(self, place: str) -> None:
        """Remove what lies at `place`, if anything does. Raises `StorageError`."""


class FolderStore:
    """Keeps them in a folder, which may be a network disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, folder: Path, place: str, digest: str) -> None:
        """See `SharedStore`. A reader sees nothing there, or all of it."""
        with storing(f"cannot publish to {self._root}"), replacing_folder(self._at(place)) as made:
            made.mkdir()
            _copy(folder, made, digest)

    def fetch(self, place: str, into: Path) -> None:
        """See `SharedStore`."""
        for name in FILES:
            try:
                shutil.copyfile(self._at(place) / name, into / name)
            except OSError as error:
                raise _not_readable(place, error.strerror or type(error).__name__) from error

    def holds(self, place: str) -> bool:
        """See `SharedStore`."""
        return all((self._at(place) / name).is_file() for name in FILES)

    def places(self) -> Iterator[str]:
        """See `SharedStore`."""
        with storing(f"cannot look into {self._root}"):
            for folder in sorted(self._root.glob(f"{ADAPTERS}/*/*")):
                if _is_digest(folder.name):
                    yield folder.relative_to(self._root).as_posix()

    def remove(self, place: str) -> None:
        """See `SharedStore`. A reader finds all of it, or nothing there."""
        path = self._at(place)
        if not path.parent.exists():
            # An empty folder where the store should be must not look like one without this adapter.
            if not (self._root / ADAPTERS).is_dir():
                raise StorageError(
                    f"{self._root} has no folder '{ADAPTERS}': mount the store, look whether "
                    "--store is right, or make that folder if what was there is gone"
                )
            return
        with storing(f"cannot remove {place} from {self._root}"):
            scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            try:
                with suppress(FileNotFoundError):
                    path.rename(scratch / path.name)
            finally:
                shutil.rmtree(scratch)

    def _at(self, place: str) -> Path:
        return self._root / checked_place(place)


class RemoteStore:
    """Keeps them at a URL that fsspec knows, such as s3://bucket/adapters.

    There, a folder does not appear at once; the catalog names it when it is whole.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingError(f"--store {url}: {error}") from None

    def put(self, folder: Path, place: str, digest: str) -> None:
        """See `SharedStore`."""
        with tempfile.TemporaryDirectory(prefix="gossamer-publish-") as scratch:
            # A copy of our own: what is sent is what was verified.
            with storing(f"cannot copy {folder}"):
                _copy(folder, Path(scratch), digest)
            try:
                self._files.makedirs(self._at(place), exist_ok=True)
                for name in FILES:
                    self._files.put_file(f"{scratch}/{name}", f"{self._at(place)}/{name}")
            except Exception as error:  # each kind of store has errors of its own
                raise StorageError(f"cannot publish to {self._at(place)}: {error}") from error

    def fetch(self, place: str, into: Path) -> None:
        """See `SharedStore`."""
        for name in FILES:
            try:
                self._files.get_file(f"{self._at(place)}/{name}", str(into / name))
            except Exception as error:  # each kind of store has errors of its own
                raise _not_readable(place, str(error) or type(error).__name__) from error

    def holds(self, place: str) -> bool:
        """See `SharedStore`."""
        try:
            return all(self._files.isfile(f"{self._at(place)}/{name}") for name in FILES)
        except Exception as error:  # each kind of store has errors of its own
            raise StorageError(f"cannot look into {self._at(place)}: {error}") from error

    def places(self) -> Iterator[str]:
        """See `SharedStore`."""
        found: dict[str, None] = {}
        try:
            self._files.invalidate_cache()
            for file in self._files.find(f"{self._root.rstrip('/')}/{ADAPTERS}"):
                parts = file.split("/")
                if len(parts) > 3 and parts[-4] == ADAPTERS and _is_digest(parts[-2]):
                    found["/".join(parts[-4:-1])] = None
        except Exception as error:  # each kind of store has errors of its own
            raise StorageError(f"cannot look into {self._root}: {error}") from error
        yield from found

    def remove(self, place: str) -> None:
        """See `SharedStore`."""
        try:
            self._files.rm(self._at(place), recursive=True)
        except FileNotFoundError:
            pass
        except Exception as error:  # each kind of store has errors of its own
            raise StorageError(f"cannot remove {self._at(place)}: {error}") from error

    def _at(self, place: str) -> str:
        return f"{self._root.rstrip('/')}/{checked_place(place)}"


def open_store(place: str) -> SharedStore:
    """Open the store at a folder or an fsspec URL. Raises `SettingError`."""
    if "://" in place and not place.startswith("file://"):
        return RemoteStore(place)
    root = Path(place.removeprefix("file://"))
    if not root.is_dir():
        raise SettingError(f"--store {root}: the folder does not exist; make it first")
    return FolderStore(root)


def checked_place(place: str) -> str:
    """Return `place` if it stays inside a store. Raises `AdapterFormatError`."""
    parts = PurePosixPath(place).parts
    if not parts or place.startswith("/") or ".." in parts or "\0" in place:
        raise AdapterFormatError(f"the catalog names '{place}', which is no place in the store")
    return place


def _copy(folder: Path, made: Path, digest: str) -> None:
    """Copy what is published of an adapter. Raises `StorageError` if the copy is another one."""
    for name in FILES:
        shutil.copyfile(folder / name, made / name)
    try:
        found = inspect(made).digest
    except AdapterError:
        found = None
    if found != digest:
        raise StorageError(
            f"{folder} was not copied as it was read: either something writes there now, or a disk "
            "fails; publish it again"
        )


def _not_readable(place: str, reason: str) -> AdapterReadError:
    return AdapterReadError(f"{place} cannot be read from the store now: {reason}; try again")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Counts what a cache has done since it was opened."""

    hits: int
    """Adapters that were there."""
    fetches: int
    """Adapters that were copied from the store."""
    evictions: int
    """Adapters that were removed for want of room."""


class DiskCache:
    """Keeps adapters of a store in a folder of this machine, each below its digest.

    What is there is whole and was verified. The ones unused for longest are removed when all exceed
    `max_bytes`, but none that is held here or was used in the last minute. Several processes may
    share the folder, if each says now and then what it holds (`keep_held`). Any thread may ask; one
    fetch serves all who wait for the same adapter.
    """

    def __init__(
        self,
        folder: Path,
        store: SharedStore,
        max_bytes: int,
        limits: AdapterLimits | None = None,
    ) -> None:
        self._folder, self._store, self._max_bytes = folder, store, max_bytes
        self._limits = limits or AdapterLimits()
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._fetching: dict[str, threading.Lock] = {}
        self._hits = self._fetches = self._evictions = 0
        with storing(f"cannot use --cache {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
        self._num_bytes = self._look()[0]
        """What is here as far as this process knows: others may add to the folder."""
        self._looked = time.monotonic()

    @property
    def folder(self) -> Path:
        """Return the folder, whose sub-folders are called by the digests of the adapters in it."""
        return self._folder

    def stats(self) -> CacheStats:
        """Take a snapshot."""
        return CacheStats(hits=self._hits, fetches=self._fetches, evictions=self._evictions)

    def acquire(self, digest: str, place: str) -> Path:
        """Have the adapter here, fetched from `place` in the store if need be, until `release`.

        May wait for the store. Raises `AdapterReadError` (try again), `AdapterFormatError` for
        content that is not what the digest says, or `StorageError`; then nothing is held.
        """
        path = self._folder / _checked_digest(digest)
        with self._lock:
            self._held[digest] += 1
            gate = self._fetching.setdefault(digest, threading.Lock())
        try:
            with gate:
                if _touch(path):
                    self._hits += 1
                else:
                    self._fetch(digest, place, path)
                    self._fetches += 1
        except BaseException:
            self.release(digest)
            raise
        is_old = time.monotonic() - self._looked > LOOK_SECONDS
        if self._num_bytes > self._max_bytes or is_old:
            self._evict()
        return path

    def release(self, digest: str) -> None:
        """End one hold."""
        with self._lock:
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]
                self._fetching.pop(digest, None)

    def keep_held(self) -> None:
        """Note that what is held here is in use, so that other processes that share the folder do
        not remove it; to be called more often than each `YOUNG_SECONDS`."""
        for digest in list(self._held):
            _touch(self._folder / digest)

    def _fetch(self, digest: str, place: str, path: Path) -> None:
        with storing(f"cannot use --cache {self._folder}"):
            scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self._folder))
            try:
                made = scratch / digest
                made.mkdir()
                self._store.fetch(place, made)
                self._verify(digest, place, made)
                flush_all(made)
                with suppress(OSError):  # another process was faster, with the same content
                    made.rename(path)
                if not path.is_dir():
                    raise AdapterReadError(f"{place} was removed while it was fetched; try again")
                self._num_bytes += _size(path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _verify(self, digest: str, place: str, made: Path) -> None:
        try:
            found = inspect(made, self._limits).digest
        except AdapterError as error:
            error.args = (str(error).replace(os.fspath(made), place),)
            raise
        if found != digest:
            raise AdapterFormatError(
                f"{place} in the store has the digest {found[:12]}, and the catalog says "
                f"{digest[:12]}; publish the adapter again"
            )

    def _evict(self) -> None:
        with self._lock:
            self._num_bytes, found = self._look()
            self._looked = time.monotonic()
            young = time.time() - YOUNG_SECONDS
            for used, size, path in sorted(found):
                if self._num_bytes <= self._max_bytes:
                    return
                if used > young or self._held[path.name]:
                    continue
                # First out of sight: what is left of it must not look like an adapter.
                gone = self._folder / f"{_SCRATCH}{path.name}-{os.getpid()}"
                try:
                    path.rename(gone)
                except OSError:  # another process has removed it
                    continue
                shutil.rmtree(gone, ignore_errors=True)
                self._num_bytes -= size
                self._evictions += 1

    def _look(self) -> tuple[int, list[tuple[float, int, Path]]]:
        """The bytes of all adapters that are here; and of each its last use and its bytes."""
        found = []
        for entry in os.scandir(self._folder):
            if not entry.name.startswith("."):
                with suppress(OSError):
                    found.append((entry.stat().st_mtime, _size(Path(entry)), Path(entry)))
        return sum(size for _, size, _ in found), found

    def _remove_stale(self) -> None:
        old = time.time() - STALE_SECONDS
        for entry in os.scandir(self._folder):
            if entry.name.startswith(_SCRATCH) and entry.stat().st_mtime < old:
                shutil.rmtree(entry, ignore_errors=True)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _checked_digest(digest: str) -> str:
    if not _is_digest(digest):
        raise AdapterFormatError(f"'{digest[:80]}' is no digest of an adapter")
    return digest


def _touch(path: Path) -> bool:
    """Note that the adapter is used now; False if it is not there."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder))
