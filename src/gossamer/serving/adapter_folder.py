"""The adapters of some folders, by name. Looks at names and times of files only."""

import os
from collections.abc import Iterable
from pathlib import Path

from gossamer.errors import UnknownModelError, unknown_name_message
from gossamer.serving.adapter_entry import AdapterEntry

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MAX_SUGGESTIONS = 500
"""Names among which the nearest to an unknown one is looked for: comparing costs more than all
else that is done with a name."""


class AdapterFolder:
    """Sub-folders of `roots` that hold an adapter, under their own names; or the roots themselves.

    Of two with the same name the one in the earlier root counts.
    """

    def __init__(self, *roots: Path | None) -> None:
        self.roots = tuple(root for root in roots if root is not None)

    def names(self) -> list[str]:
        """Names of all adapters now."""
        found: dict[str, None] = {}
        for root in self.roots:
            found.update(dict.fromkeys(_names_in(root)))
        return sorted(found)

    def look_up(self, name: str) -> AdapterEntry:
        """A fresh entry for the files that lie under `name` now.

        Raises `UnknownModelError` that names close matches. A name is one path component: nothing
        outside the roots can be reached.
        """
        path = self.path(name)
        if path is None:
            raise unknown(name, self.names())
        return AdapterEntry(name=name, path=path, signature=signature(path))

    def path(self, name: str) -> Path | None:
        """Where the adapter `name` lies; None if there is none."""
        if not name or name in (".", "..") or name != os.path.basename(name):
            return None
        return next((path for root in self.roots if (path := _path_in(root, name))), None)


def unknown(name: str, known: Iterable[str]) -> UnknownModelError:
    """The error for a name that is not among `known`."""
    names = list(known)
    if len(names) > MAX_SUGGESTIONS:
        # The nearest name mostly begins alike.
        alike = [each for each in names if each[:2] == name[:2]] or names
        names = alike[:MAX_SUGGESTIONS]
    return UnknownModelError(unknown_name_message("model", name, names))


def signature(path: Path) -> tuple[tuple[int, int, int], ...]:
    """(inode, size, time of change) of each file of the adapter in `path`, the weights last."""
    found = []
    folder = os.fspath(path)
    for name in (CONFIG, *WEIGHTS):
        try:
            stat = os.stat(f"{folder}/{name}")
        except OSError:
            continue
        found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        if name == WEIGHTS[0]:
            break
    return tuple(found)


def _names_in(root: Path) -> list[str]:
    if _holds_adapter(root):
        return [root.resolve().name]
    try:
        with os.scandir(root) as children:
            return [child.name for child in children if is_file(f"{child.path}/{CONFIG}")]
    except OSError:
        return []


def _path_in(root: Path, name: str) -> Path | None:
    if _holds_adapter(root):
        return root if name == root.resolve().name else None
    return root / name if is_file(f"{os.fspath(root)}/{name}/{CONFIG}") else None


def _holds_adapter(folder: Path) -> bool:
    return is_file(f"{os.fspath(folder)}/{CONFIG}")


def is_file(path: str) -> bool:
    """Whether a file is there; False for what cannot be a path."""
    try:
        return os.path.isfile(path)
    except ValueError:  # a NUL or a lone surrogate
        return False
