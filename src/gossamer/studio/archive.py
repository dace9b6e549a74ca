"""Folders as zip archives that are made while they are sent: nothing is kept, however large."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gossamer.jobs.results.archive import ZipSink

_PIECE = 2**20


def zipped(folder: Path, name: str) -> Iterator[bytes]:
    """Yield the archive of all files in `folder`, which is called `name` in it.

    Weights hardly shrink, so nothing is compressed. Waits for the disk.
    """
    sink = ZipSink()
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
