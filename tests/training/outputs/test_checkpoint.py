"""Checkpoints are whole or absent."""

import errno
import os

import pytest

from gossamer.errors import CheckpointError
from gossamer.training.outputs.checkpoint import (
    latest_checkpoint,
    prune_checkpoints,
    step_of,
    write_checkpoint,
)


def fill(folder):
    (folder / "weights").write_bytes(b"12345")


def test_the_latest_is_the_one_of_the_highest_step(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for step in (9, 10, 2):
        write_checkpoint(tmp_path, step, fill)
    assert step_of(latest_checkpoint(tmp_path)) == 10


def test_a_checkpoint_that_was_never_finished_does_not_exist(tmp_path):
    write_checkpoint(tmp_path, 1, fill)

    def killed(folder):
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, 2, killed)
    assert step_of(latest_checkpoint(tmp_path)) == 1
    write_checkpoint(tmp_path, 2, fill)
    assert step_of(latest_checkpoint(tmp_path)) == 2


def test_only_the_latest_are_kept_and_leftovers_go(tmp_path):
    for step in range(1, 6):
        write_checkpoint(tmp_path, step, fill)
    (tmp_path / "checkpoints" / ".step-6.tmp").mkdir()
    prune_checkpoints(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-4", "step-5"]


def test_writing_the_same_step_again_replaces_it(tmp_path):
    write_checkpoint(tmp_path, 3, fill)
    folder = write_checkpoint(tmp_path, 3, lambda f: (f / "weights").write_bytes(b"new"))
    assert (folder / "weights").read_bytes() == b"new"
    assert [p.name for p in folder.parent.iterdir()] == ["step-3"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "weights").write_bytes(b"12"), "weights has 2 bytes instead of 5"),
        (lambda f: (f / "weights").unlink(), "weights is missing"),
        (lambda f: (f / "files.json").write_text("{"), "files.json is missing or unreadable"),
    ],
)
def test_damage_is_found_and_named(tmp_path, damage, message):
    damage(write_checkpoint(tmp_path, 4, fill))
    with pytest.raises(CheckpointError, match=message) as raised:
        latest_checkpoint(tmp_path)
    assert "step-4" in str(raised.value)
    assert "remove that folder" in str(raised.value)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_checkpoint_that_is_not_on_the_disk_is_none(tmp_path, monkeypatch, number):
    write_checkpoint(tmp_path, 1, fill)
    write_checkpoint(tmp_path, 2, fill)

    def broken(handle):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        for step in (2, 3):
            with pytest.raises(OSError, match=os.strerror(number)):
                write_checkpoint(tmp_path, step, fill)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-1", "step-2"], "older ones stay, the unfinished one takes no room"
    assert step_of(latest_checkpoint(tmp_path)) == 2
