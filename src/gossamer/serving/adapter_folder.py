"""The adapters of a folder, by name. Looks at names and times of files only."""

from pathlib import Path

from gossamer.errors import UnknownModelError, unknown_name_message
from gossamer.serving.adapter_entry import AdapterEntry

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


class AdapterFolder:
    """Sub-folders of `root` that hold an adapter, under their own names; or `root` itself."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Names of all adapters now."""
        if self._root is None:
            return []
        if (self._root / CONFIG).is_file():
            return [self._root.resolve().name]
        try:
            children = sorted(self._root.iterdir())
        except OSError:
            return []
        return [child.name for child in children if (child / CONFIG).is_file()]

    def look_up(self, name: str) -> AdapterEntry:
        """A fresh entry for the files that lie under `name` now.

        Raises `UnknownModelError` that names close matches. A name is one path component: nothing
        outside `root` can be reached.
        """
        path = self._path(name)
        if path is None:
            raise self.unknown(name)
        return AdapterEntry(name=name, path=path, signature=_signature(path))

    def unknown(self, name: str, *, others: tuple[str, ...] = ()) -> UnknownModelError:
        """The error for a name that is neither an adapter nor among `others`."""
        return UnknownModelError(unknown_name_message("model", name, [*others, *self.names()]))

    def _path(self, name: str) -> Path | None:
        if self._root is None or not name or name != Path(name).name or name in (".", ".."):
            return None
        if (self._root / CONFIG).is_file():
            return self._root if name == self._root.resolve().name else None
        path = self._root / name
        try:
            return path if (path / CONFIG).is_file() else None
        except (OSError, ValueError):
            return None


def _signature(path: Path) -> tuple[tuple[int, int, int], ...]:
    found = []
    for name in (CONFIG, *WEIGHTS):
        try:
            stat = (path / name).stat()
        except OSError:
            continue
        found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
