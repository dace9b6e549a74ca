"""Writes files and folders that must survive a kill, a full disk and a power loss.

A file or folder is written beside its place, put on the disk (fsync), renamed, and then the rename
is put on the disk. So a reader sees the former content or the new one, whole, also after the
power went. An error of the disk is never swallowed: what was there before stays, and the caller
must not remove older copies.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gossamer.errors import GossamerError, StorageError

_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of file systems that know no fsync (of folders, mostly); there the rename's order has to
do. Every other error means that the content may not be on the disk."""

_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or have the quota raised",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or choose another disk",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EIO: "the disk reports an error; check it, or choose another one",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of that path is a file; choose another folder",
    errno.ESTALE: "the network disk went away; mount it again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has no more open files to give",
}


def write_whole(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write `path`, all or nothing. `mode`: permission bits, else what the umask leaves of 666."""
    with replacing(path) as scratch:
        data = content.encode() if isinstance(content, str) else content
        handle = os.open(
            scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 if mode is None else mode
        )
        with open(handle, "wb") as stream:
            stream.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write; when it has been, it takes the place of `path`."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        replace_file(scratch, path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def replace_file(scratch: Path, path: Path) -> None:
    """Put the finished file `scratch` in the place of `path`, on the same disk."""
    flush(scratch)
    os.replace(scratch, path)
    flush(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """The name of a folder to make and fill; it then takes the place of a former `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # As the system itself says where the file is further up.
        why = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(errno.ENOTDIR, why, str(folder.parent)) from None
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        finished = scratch / "finished"
        yield finished
        flush_all(finished)
        if folder.exists():
            folder.rename(scratch / "replaced")
        finished.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def flush_all(folder: Path) -> None:
    """Put a folder and everything in it on the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Have the system put a file, or a folder's list of names, on the disk now.

    Raises `OSError` if it could not; file systems that know no fsync are let be.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        # One may write into a folder that one may not list; that cannot be asked for.
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise _named(error, path) from None
    finally:
        os.close(handle)


@contextmanager
def storing(what: object, *, then: str = "") -> Iterator[None]:
    """Tell an error of the user's disk inside as one `StorageError`: what fails, why, the remedy.

    `then` is what to do when the remedy has been applied.
    """
    try:
        yield
    except GossamerError:
        raise
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        after = f"; then {then}" if then else ""
        raise StorageError(f"{what}: {trouble}{after}") from error


def disk_trouble(error: BaseException) -> str | None:
    """What the disk refused and the remedy, if that is what `error` (or its cause) is about."""
    chain = list(_with_causes(error))
    for one in chain:
        number = _number(one)
        if number in _REMEDIES:
            name = getattr(one, "filename", None)
            place = f" ('{str(name)[-200:]}')" if name else ""
            return f"{os.strerror(number).lower()}{place}; {_REMEDIES[number]}"
    if any(_is_cut_off(one) for one in chain):
        return f"the system took only a part of a file; {_REMEDIES[errno.ENOSPC]}"
    return None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        yield one
        seen.append(one)
        one = one.__cause__ or one.__context__


def _number(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    # safetensors writes by itself and tells the system's number in words.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def _is_cut_off(error: BaseException) -> bool:
    """Whether a file of torch is too short at its end: torch tells no error number for that."""
    return isinstance(error, RuntimeError) and "inline_container.cc" in str(error)


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))
