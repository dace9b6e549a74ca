"""Finds the adapters of some folders by name; looks at names and times of files only."""

import logging
import math
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from gossamer.adapters.layout import CONFIG_FILE, PICKLE_FILES, WEIGHTS_FILE
from gossamer.adapters.reading.regular_file import is_passing
from gossamer.errors import (
    AdapterFormatError,
    AdapterNotFoundError,
    AdapterReadError,
    GossamerError,
    RequestError,
    UnknownModelError,
    unknown_name_message,
)
from gossamer.serving.core.adapter import AdapterEntry, Signature
from gossamer.serving.core.tuned_name import is_tuned

log = logging.getLogger(__name__)

WEIGHTS = (WEIGHTS_FILE, PICKLE_FILES[0])
KNOWN_SECONDS = 2.0
"""So old the names may be among which the nearest to an unknown one is looked for."""
MAX_NAME = 200
"""Characters of an adapter's name."""

_MAX_TOLD = 1000
_MAX_LINKS = 8


def is_plain(name: str) -> bool:
    """Whether an adapter may be called so: printable (what is not UTF-8 is not), without the signs
    of paths and mixtures, of which only names of fine-tuned models (`ft:...`) hold one."""
    return (
        0 < len(name) <= MAX_NAME
        and name.isprintable()
        and name == name.strip()
        and not set(name) & set("/\\+")
        and (":" not in name or is_tuned(name))
        and name not in (".", "..")
    )


class AdapterFolder:
    """Finds sub-folders of `roots` that hold an adapter, by their names; or the roots themselves.

    Of two with the same name the one in the earlier root counts. A folder that is not `is_plain`,
    or has the base model's name, is passed over, which the log tells once. A link to another folder
    of the same root is an alias: a second name of one adapter, which is in memory once.
    """

    def __init__(self, *roots: Path | None, base: str | None = None) -> None:
        """`base` is the base model's name."""
        self.roots = tuple(root for root in roots if root is not None)
        self._base = base
        self._told: set[str] = set()
        self._listed: tuple[float, list[str]] = (-math.inf, [])
        self._spellings: dict[Path, frozenset[str]] = {}

    def names(self) -> list[str]:
        """List the names of all adapters now. Raises `AdapterReadError`."""
        found: dict[str, None] = {}
        for root in self.roots:
            found.update(dict.fromkeys(filter(self._is_served, _names_in(root))))
        return sorted(found)

    def look_up(self, name: str) -> AdapterEntry:
        """Make a fresh entry for the files that lie under `name` now; for an alias, that of the
        adapter it stands for, with its name.

        Raises `UnknownModelError` that names close matches, or `AdapterReadError`. A name is one
        path component: nothing outside the roots can be reached.
        """
        path = self.path(name)
        if path is None:
            raise unknown(name, self._known())
        if path not in self.roots:
            path = self._behind_alias(path)
            name = path.name
        return AdapterEntry(name=name, path=path, signature=signature(path))

    def path(self, name: str) -> Path | None:
        """Return where the adapter `name` lies; None if there is none."""
        if not is_plain(name) or name == self._base:
            return None
        found = ((root, _path_in(root, name)) for root in self.roots)
        return next((path for root, path in found if path and self._is_spelt(root, path)), None)

    def _behind_alias(self, path: Path) -> Path:
        """The folder that `path`, in a root, is another name of; `path` itself if of none."""
        for _ in range(_MAX_LINKS):
            try:
                target = os.path.join(path.parent, os.readlink(path))
            except OSError:  # no link
                break
            other = Path(target)
            is_sibling = other.parent == path.parent and self.path(other.name) == other
            if not is_sibling:
                break
            path = other
        return path

    def _is_spelt(self, root: Path, path: Path) -> bool:
        """Whether the folder is called so to the letter. Raises `AdapterReadError`.

        Some disks find a folder under other spellings too (upper case, accents), by which it would
        pass the access list of somebody who may not use it.
        """
        if path == root or path.name in self._spellings.get(root, ()):
            return True
        try:
            self._spellings[root] = frozenset(os.listdir(root))
        except OSError as error:
            raise _unreadable(path.name, error) from None
        return path.name in self._spellings[root]

    def _known(self) -> list[str]:
        """Names for suggestions. Many unknown ones in a row must not each have all folders looked
        at, while others wait for their names to be looked up."""
        listed, names = self._listed
        if time.monotonic() - listed > KNOWN_SECONDS:
            try:
                names = self.names()
            except GossamerError:  # that a name is unknown can be told without
                names = []
            self._listed = time.monotonic(), names
        return names if self._base is None else [self._base, *names]

    def _is_served(self, name: str) -> bool:
        if is_plain(name) and name != self._base:
            return True
        if name not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(name)
            why = "that is the base model's"
            if name != self._base:
                why = f"use at most {MAX_NAME} printable characters other than / \\ + :"
            log.warning(
                "the adapter folder %s is not served under such a name; %s",
                ascii(name[:MAX_NAME]),
                why,
            )
        return False


def unknown(name: str, known: Iterable[str]) -> UnknownModelError:
    """Return the error for a name that is not among `known`."""
    return UnknownModelError(unknown_name_message("model", name, known))


def signature(path: Path) -> Signature:
    """Inode, size, times of writing and of change, and device of each file of the adapter in
    `path`, the weights last. Raises `AdapterReadError`.

    The time of change cannot be set: it tells new content of the same size with the former time of
    writing, as `cp -p`, `rsync --times` and archives leave it.
    """
    found = []
    folder = os.fspath(path)
    for name in (CONFIG_FILE, *WEIGHTS):
        try:
            status = os.stat(f"{folder}/{name}")
        except OSError as error:
            if is_passing(error):
                raise _unreadable(path.name, error) from None
            continue
        found.append(
            (
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_dev,
            )
        )
        if name == WEIGHTS[0]:
            break
    return tuple(found)


def is_file(path: str) -> bool:
    """Whether a file is there; False for what cannot be a path."""
    try:
        return os.path.isfile(path)
    except ValueError:  # a NUL or a lone surrogate
        return False


def _names_in(root: Path) -> list[str]:
    if is_file(f"{os.fspath(root)}/{CONFIG_FILE}"):
        return [root.resolve().name]
    try:
        return list(_children(root))
    except OSError as error:
        if is_passing(error):
            raise _unreadable(root.name, error) from None
        return []


def _children(root: Path) -> Iterator[str]:
    with os.scandir(root) as children:
        for child in children:
            if is_file(f"{child.path}/{CONFIG_FILE}"):
                yield child.name


def _path_in(root: Path, name: str) -> Path | None:
    if _holds_adapter(root, name):
        return root if name == root.resolve().name else None
    return root / name if _holds_adapter(root / name, name) else None


def _holds_adapter(folder: Path, name: str) -> bool:
    """Whether an adapter lies in `folder`. Raises `AdapterReadError`, about the adapter `name`."""
    try:
        return stat.S_ISREG(os.stat(f"{os.fspath(folder)}/{CONFIG_FILE}").st_mode)
    except OSError as error:
        if is_passing(error):
            raise _unreadable(name, error) from None
        return False


def _unreadable(name: str, error: OSError) -> AdapterReadError:
    return AdapterReadError(f"adapter {name} cannot be read now: {error.strerror}; try again")


def find_allowed(text: str, roots: Iterable[Path]) -> Path:
    """The adapter folder `text`: a path below one of `roots`, relative to it or absolute.

    Links are followed before the place is judged, those of the files inside too.

    Raises:
        RequestError: a path outside the roots (whether it exists is not told), or with `..`.
        AdapterNotFoundError: no adapter there.
        AdapterFormatError: no safetensors file in it.
    """
    if not text or "\x00" in text or ".." in Path(text).parts:
        raise _outside(text)
    real_roots = [root.resolve() for root in roots]
    tried = [root / text for root in real_roots]
    inside = [path for path in tried if _is_inside(path, real_roots)]
    if not inside:
        raise _outside(text)
    found = next((path for path in inside if is_file(f"{path}/{CONFIG_FILE}")), None)
    if found is None:
        raise AdapterNotFoundError(
            f"'{text[:200]}' has no {CONFIG_FILE}; give the folder of an adapter"
        )
    for name in (CONFIG_FILE, *WEIGHTS):
        if not _is_inside(found / name, real_roots):
            raise _outside(text)
    if not is_file(f"{found}/{WEIGHTS[0]}"):
        raise AdapterFormatError(
            f"'{text[:200]}' has no {WEIGHTS[0]}; other formats can run code and are not loaded"
        )
    return found.resolve()


def _is_inside(path: Path, roots: Iterable[Path]) -> bool:
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long
        return False
    return any(real.is_relative_to(root) for root in roots)


def _outside(text: str) -> RequestError:
    return RequestError(
        f"'{text[:200]}' is not below a folder of --adapters; adapters are loaded from there only",
        param="lora_path",
    )
