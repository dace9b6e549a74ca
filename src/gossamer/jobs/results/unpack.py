"""Takes an adapter out of a zip that came from somebody else.

Nothing is unpacked under a name of the zip's: the few files that make an adapter are written under
their own names, whatever lies around them is left. A zip that tries anything else is refused whole,
since it is not what its sender takes it for.
"""

import errno
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gossamer.adapters.layout import CONFIG_FILE, PICKLE_FILES, WEIGHTS_FILE
from gossamer.errors import JobError, cut
from gossamer.files import storing
from gossamer.jobs.figures import NAME as FIGURES
from gossamer.training.outputs.run_folder import LOSS_CURVE, MODEL_CARD
from gossamer.training.outputs.run_record import FILE as RECORD

KEPT = (CONFIG_FILE, WEIGHTS_FILE, MODEL_CARD, RECORD, FIGURES, LOSS_CURVE)
"""The files that are taken."""
MAX_MEMBERS = 1000
MAX_DIRECTORY_BYTES = 2**20
"""The zip's own table of contents is held in memory; with this size it takes some MiB there."""

_PICKLES = {PurePosixPath(name).suffix for name in PICKLE_FILES} | {".pkl", ".pickle"}
_PIECE_BYTES = 2**20
_END, _END_SIZE, _MAX_COMMENT = b"PK\x05\x06", 22, 2**16
_LOCATOR, _LOCATOR_SIZE, _RECORD_SIZE = b"PK\x06\x07", 20, 56
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip
"""What reading a damaged zip may end with."""


def unpack(path: Path, into: Path, max_bytes: int) -> list[str]:
    """Write the files of the one adapter in the zip `path` into the folder `into`.

    They may have `max_bytes` together. Returns the names of the members that were left. Raises
    `JobError`.
    """
    try:
        with path.open("rb") as file:
            _require_small_directory(file)
            with zipfile.ZipFile(file) as packed:
                members = _checked(packed.infolist())
                root = _root(members)
                taken = {name: members[root / name] for name in KEPT if root / name in members}
                _write(packed, taken, into, max_bytes)
    except _UNREADABLE as error:
        raise _damaged(error) from None
    except OSError as error:
        # A place before the beginning of the file; all else is a matter of the disk.
        if error.errno != errno.EINVAL:
            raise
        raise _damaged(error) from None
    return sorted(str(name) for name, info in members.items() if info not in taken.values())


def _require_small_directory(file: BinaryIO) -> None:
    """Refuse a zip whose table of contents is too large to be read."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_SIZE - _MAX_COMMENT - _LOCATOR_SIZE))
    tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_SIZE:
        raise _refused("it is no zip; pack the adapter's folder as .zip")
    (directory,) = struct.unpack_from("<L", tail, end + 12)
    locator = end - _LOCATOR_SIZE
    if locator >= 0 and tail[locator : locator + 4] == _LOCATOR:
        (told,) = struct.unpack_from("<Q", tail, locator + 8)
        # Some readers go where the locator says, others to the place right before it.
        for place in (told, size - len(tail) + locator - _RECORD_SIZE):
            file.seek(min(max(0, place), size))
            record = file.read(_RECORD_SIZE)
            sizes = struct.unpack_from("<Q", record, 40) if len(record) == _RECORD_SIZE else (size,)
            directory = max(directory % 2**32, *sizes)
    if directory > MAX_DIRECTORY_BYTES:
        raise _refused("it holds too many files; pack the adapter's folder alone")
    file.seek(0)


def _checked(infos: list[zipfile.ZipInfo]) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of a zip by path; raises `JobError` for a member that should not be there."""
    if len(infos) > MAX_MEMBERS:
        raise _refused(f"it holds more than {MAX_MEMBERS} files; pack the adapter's folder alone")
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    seen = set()
    for info in infos:
        name = info.orig_filename
        path = PurePosixPath(name)
        has_drive = len(name) > 1 and name[1] == ":"
        if path.is_absolute() or has_drive or ".." in path.parts or set(name) & set("\\\0"):
            raise _refused(f"'{cut(name)}' leads out of it; pack the adapter's folder again")
        if str(path).casefold() in seen:
            raise _refused(f"'{cut(name)}' is in it twice; pack the adapter's folder again")
        seen.add(str(path).casefold())
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(f"'{cut(name)}' is no plain file; put the file itself in its place")
        if info.is_dir():
            continue
        if path.suffix.lower() in _PICKLES:
            raise _refused(
                f"'{cut(name)}' is of a format that can run code; leave it out, and save weights "
                "as safetensors (PEFT: save_pretrained(..., safe_serialization=True))"
            )
        if info.flag_bits & 1:
            raise _refused(f"'{cut(name)}' is encrypted; pack it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Others may give any amount of bytes at once.
            raise _refused(f"'{cut(name)}' is packed in an unusual way; use an ordinary zip")
        found[path] = info
    return found


def _root(members: dict[PurePosixPath, zipfile.ZipInfo]) -> PurePosixPath:
    """The folder of the one adapter; of a run, not those of its checkpoints."""
    folders = sorted(
        (path.parent for path in members if path.name == CONFIG_FILE),
        key=lambda folder: len(folder.parts),
    )
    if not folders:
        raise _refused(f"it has no {CONFIG_FILE}; pack the folder of an adapter")
    others = [folder for folder in folders[1:] if not folder.is_relative_to(folders[0])]
    if others:
        first, second = cut(str(folders[0])), cut(str(others[0]))
        raise _refused(f"it has several adapters ('{first}', '{second}'); send them one by one")
    return folders[0]


def _write(
    packed: zipfile.ZipFile, taken: dict[str, zipfile.ZipInfo], into: Path, max_bytes: int
) -> None:
    total = 0
    for name, info in taken.items():
        with (
            storing("the adapter cannot be stored"),
            packed.open(info) as source,
            (into / name).open("xb") as target,
        ):
            # What a zip says of sizes is not believed.
            while piece := source.read(_PIECE_BYTES):
                total += len(piece)
                if total > max_bytes:
                    raise JobError(
                        f"the adapter is larger than {max_bytes / 2**20:g} MiB (--max-upload-mib)",
                        code="file_too_large",
                        param="file",
                    )
                target.write(piece)


def _damaged(error: Exception) -> JobError:
    return _refused(f"it cannot be read ({cut(str(error), 80)}); pack it again")


def _refused(why: str) -> JobError:
    return JobError(f"the zip is refused: {why}", code="invalid_archive", param="file")
