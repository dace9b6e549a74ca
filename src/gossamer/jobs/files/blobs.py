"""The bytes of all files, each content once, under its SHA-256; never changed, only linked.

A blob is linked into place when its bytes are on the disk, so that a name always leads to the whole
of them. `store.files` tells the order in which rows and bytes come and go.
"""

import os
from contextlib import suppress
from pathlib import Path

from gossamer.files import flush, storing
from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.files.scratch import ScratchFile

_LEAVING = ".leaving"


class BlobFolder:
    """The folder of blobs. Not for the event loop."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """The file with those bytes; raises `ValueError` for what is no SHA-256."""
        return self._folder.blob(sha256)

    def add(self, file: ScratchFile) -> str:
        """Keep the bytes of `file`, which stays where it is; returns their SHA-256.

        Raises `StorageError`.
        """
        file.flush()
        sha256 = file.sha256
        self.link(file, sha256)
        return sha256

    def link(self, file: ScratchFile, sha256: str) -> None:
        """Put the bytes of `file` in their place unless they are there; raises `StorageError`."""
        place = self.path(sha256)
        with storing("an upload cannot be stored"):
            place.parent.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileExistsError):
                os.link(file.path, place)
            flush(place.parent)
            flush(place.parent.parent)

    def step_aside(self, sha256: str) -> bool:
        """Take a blob out of its place, to be removed or put back; False if it is not there."""
        place = self.path(sha256)
        try:
            place.rename(_aside(place))
        except FileNotFoundError:
            return False
        return True

    def come_back(self, sha256: str) -> None:
        """Undo `step_aside`; bytes that have been linked into the place meanwhile stay."""
        place = self.path(sha256)
        aside = _aside(place)
        with suppress(FileExistsError, FileNotFoundError):
            os.link(aside, place)
        aside.unlink(missing_ok=True)
        flush(place.parent)

    def leave(self, sha256: str) -> None:
        """Remove a blob that has stepped aside, and what was found out about it."""
        place = self.path(sha256)
        _aside(place).unlink(missing_ok=True)
        for report in place.parent.glob(f"{sha256}.*.report.json"):
            report.unlink(missing_ok=True)
        flush(place.parent)

    def aside(self) -> list[str]:
        """The digests of blobs that a crash has left aside."""
        return [path.name.removesuffix(_LEAVING) for path in self._all(f"*/*{_LEAVING}")]

    def all(self) -> list[str]:
        """The digests of all blobs that are in their place."""
        return [path.name for path in self._all("??/*") if len(path.name) == 64]

    def report(self, sha256: str, ending: str) -> Path:
        """Where the report lies of a check of those bytes, read as a file with that ending."""
        place = self.path(sha256)
        return place.with_name(f"{place.name}{ending}.report.json")

    def _all(self, pattern: str) -> list[Path]:
        return sorted(self._folder.blobs.glob(pattern))


def _aside(place: Path) -> Path:
    return place.with_name(f"{place.name}{_LEAVING}")
