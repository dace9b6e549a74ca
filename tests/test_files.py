"""Whole or not at all, on the disk before it counts, and errors of the disk are told."""

import errno
import os

import pytest

from gossamer import files
from gossamer.errors import GossamerError, StorageError, UsageError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def fsync(monkeypatch):
    """`fsync(number, folders=False)`: from now on, fsync of files (or folders) fails so."""

    def break_it(number, *, folders=False):
        real = os.fsync

        def broken(handle):
            if os.path.isdir(f"/dev/fd/{handle}") == folders:
                raise OSError(number, os.strerror(number))
            real(handle)

        monkeypatch.setattr(os, "fsync", broken)

    return break_it


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("folders", [False, True])
def test_an_error_of_fsync_is_told(fsync, tmp_path, number, folders):
    path = tmp_path / "record"
    path.write_text("former")
    fsync(number, folders=folders)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        files.write_whole(path, "new")
    assert str(tmp_path) in raised.value.filename
    assert names(tmp_path) == ["record"]
    if not folders:
        assert path.read_text() == "former"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_is_let_be(fsync, tmp_path, number):
    fsync(number, folders=True)
    files.write_whole(tmp_path / "record", "new")
    assert (tmp_path / "record").read_text() == "new"


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle):
        events.append("folder" if os.path.isdir(f"/dev/fd/{handle}") else "file")
        real_fsync(handle)

    def replace(old, new):
        events.append("rename")
        real_replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.write_whole(tmp_path / "record", b"new")
    assert events == ["file", "rename", "folder"]


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "record"
    path.write_text("former")

    def interrupted():
        with files.replacing(path) as scratch:
            scratch.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "former"
    assert names(tmp_path) == ["record"]


def test_permission_bits_are_those_asked_for(tmp_path):
    files.write_whole(tmp_path / "key", "secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def fill_folder(folder, content):
    with files.replacing_folder(folder) as scratch:
        scratch.mkdir()
        (scratch / "weights").write_bytes(content.encode())


def test_a_folder_appears_whole_and_replaces_the_former(tmp_path):
    folder = tmp_path / "deep" / "adapter"
    for content in ("one", "two"):
        fill_folder(folder, content)
        assert (folder / "weights").read_text() == content
        assert names(folder.parent) == ["adapter"]
    with pytest.raises(AttributeError):
        fill_folder(folder, None)
    assert (folder / "weights").read_text() == "two"
    assert names(folder.parent) == ["adapter"]


def test_a_file_where_the_parent_should_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    told = r"cannot write: not a directory \('\S+/file'\); a part of that path is a file; choose"
    with (
        pytest.raises(StorageError, match=told),
        files.storing("cannot write"),
        files.replacing_folder(tmp_path / "file" / "folder"),
    ):
        pass


def test_a_folder_that_cannot_be_flushed_does_not_replace_the_former(fsync, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_text("former")
    fsync(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        fill_folder(folder, "new")
    assert (folder / "weights").read_text() == "former"
    assert names(tmp_path) == ["adapter"]


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.ENOSPC, "x", "/a/file"), "no space left on device ('/a/file'); free space"),
        (OSError(errno.EDQUOT, "x"), "quota"),
        (OSError(errno.EFBIG, "x"), "ulimit -f"),
        (OSError(errno.EROFS, "x"), "read-only"),
        (OSError(errno.EACCES, "x"), "permission denied"),
        (OSError(errno.EIO, "x"), "the disk reports an error"),
        (RuntimeError("Error while serializing: I/O error (os error 28)"), "no space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "a part of a"),
    ],
)
def test_troubles_of_the_disk_are_told_with_the_remedy(error, part):
    with pytest.raises(StorageError) as raised, files.storing("cannot write x", then="go on"):
        raise error
    message = str(raised.value)
    assert message.startswith("cannot write x: ")
    assert part in message
    assert message.endswith("; then go on")
    assert "\n" not in message
    assert raised.value.exit_code == 1


def test_the_trouble_behind_an_error_is_found_and_others_pass():
    error = RuntimeError("unexpected pos")
    error.__context__ = OSError(errno.ENOSPC, "x")
    assert "no space left" in files.disk_trouble(error)
    with pytest.raises(ZeroDivisionError), files.storing("x"):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), files.storing("x"):
        raise FileNotFoundError(errno.ENOENT, "x")
    with pytest.raises(UsageError), files.storing("x"):
        raise UsageError("y") from OSError(errno.ENOSPC, "x")
    assert issubclass(StorageError, GossamerError)
    circle = RuntimeError("round")
    circle.__cause__ = circle
    assert files.disk_trouble(circle) is None
