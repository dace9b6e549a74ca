"""Opening what lies under a name that others may write to."""

import errno
import os
import stat
from io import FileIO
from pathlib import Path

from gossamer.errors import AdapterError, AdapterFormatError, AdapterReadError

# What a path itself may be wrong for. All else is the system's: too many files, a disk that fails.
_OF_THE_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR}
)
_FLAGS = (
    os.O_RDONLY
    # A pipe without a writer would otherwise be waited for.
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class NotAFile(OSError):
    """A pipe, a device or a socket lies in a file's place."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "not a regular file")


def open_regular(path: Path) -> FileIO:
    """Open a file for reading, unbuffered. Raises `OSError`; what is no file is not waited for."""
    number = os.open(path, _FLAGS)
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise NotAFile
        return FileIO(number, "rb")  # raises IsADirectoryError
    except BaseException:
        os.close(number)
        raise


def read_whole(path: Path, most: int) -> bytes:
    """Read a file, but no more than `most` + 1 bytes of it. Raises `OSError`."""
    with open_regular(path) as file:
        parts = []
        left = most + 1
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def is_passing(error: OSError) -> bool:
    """Tell whether the system failed, rather than that no file is there."""
    return error.errno is not None and error.errno not in _OF_THE_PATH


def unreadable(path: Path, error: OSError) -> AdapterError:
    """Make the error for a file that cannot be read: for good, or now."""
    what = f"cannot read {path}: {error.strerror}"
    if error.errno in _OF_THE_PATH:
        return AdapterFormatError(what)
    return AdapterReadError(f"{what}; try again")
