"""Opening what lies under a name that others may write to."""

import os
import stat
from io import FileIO
from pathlib import Path

_FLAGS = (
    os.O_RDONLY
    # A pipe without a writer would otherwise be waited for.
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class NotAFile(OSError):
    """A pipe, a device or a socket lies in a file's place."""

    strerror = "not a regular file"


def open_regular(path: Path) -> FileIO:
    """Open a file for reading, unbuffered. Raises `OSError`; what is no file is not waited for."""
    number = os.open(path, _FLAGS)
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise NotAFile(str(path))
        return FileIO(number, "rb")  # raises IsADirectoryError
    except BaseException:
        os.close(number)
        raise


def read_whole(path: Path, most: int) -> bytes:
    """The content of a file, but no more than `most` + 1 bytes of it. Raises `OSError`."""
    with open_regular(path) as file:
        parts = []
        left = most + 1
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)
