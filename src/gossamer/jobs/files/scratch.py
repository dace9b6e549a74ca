"""A file that is being written: hashed as it grows, locked while it is, and gone if it is not kept.

The lock tells a half-written file of a living process from one that a crash has left.
"""

import fcntl
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from gossamer.files import storing

HALF = "half-"
"""The start of the names of files that are being received."""


class ScratchFile:
    """A new file in the folder `scratch`, for its owner alone. Not for the event loop."""

    def __init__(self, scratch: Path) -> None:
        """Raises `StorageError`."""
        self.path = scratch / f"{HALF}{secrets.token_hex(16)}"
        self.num_bytes = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        with storing("an upload cannot be stored"):
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(handle, "wb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def write(self, data: bytes | memoryview) -> None:
        """Add `data`; raises `StorageError`."""
        with storing("an upload cannot be stored"):
            view = memoryview(data)
            self._sha256.update(view)
            self._md5.update(view)
            self.num_bytes += len(view)
            while view:
                view = view[self._file.write(view) :]

    def flush(self) -> None:
        """Put what was written on the disk; raises `StorageError`."""
        with storing("an upload cannot be stored"):
            os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written, in hexadecimal digits."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """The MD5 of what was written, which clients send to find damage on the way."""
        return self._md5.hexdigest()

    def keep_as(self, path: Path) -> None:
        """Give the file the name `path`, in the same folder; raises `StorageError`."""
        with storing("an upload cannot be stored"):
            self.path.rename(path)
        self.path = path
        self._file.close()

    def remove(self) -> None:
        """Close and remove the file, unless it was kept under another name."""
        if not self._file.closed:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._file.close()


def remove_abandoned(scratch: Path) -> int:
    """Remove the files that no process is writing any more; returns their number."""
    removed = 0
    for path in scratch.glob(f"{HALF}*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed += 1
    return removed
