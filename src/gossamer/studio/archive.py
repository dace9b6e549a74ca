"""Folders as zip archives that are made while they are sent: nothing is kept, however large."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

_PIECE = 2**20


class _Sink(io.RawIOBase):
    """Takes what an archive writes until somebody fetches it; it cannot be gone back in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        self._pieces.append(bytes(piece))
        return len(piece)

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def zipped(folder: Path, name: str) -> Iterator[bytes]:
    """Yield the archive of all files in `folder`, which is called `name` in it.

    Weights hardly shrink, so nothing is compressed. Waits for the disk.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            place = f"{name}/{path.relative_to(folder).as_posix()}"
            info = zipfile.ZipInfo.from_file(path, place)
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as entry:
                while piece := source.read(_PIECE):
                    entry.write(piece)
                    yield sink.take()
    yield sink.take()
