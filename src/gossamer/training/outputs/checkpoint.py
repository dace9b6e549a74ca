"""Keeps checkpoints on disk: whole or absent, oldest removed first.

A checkpoint `OUTPUT/checkpoints/step-N/` is written under a name that starts with a dot, flushed to
the disk and renamed; so a folder of the right name is complete, whenever the process was killed or
the power went. What could not be flushed is no checkpoint, and older ones are not removed then.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.errors import CheckpointError
from gossamer.files import flush, flush_all

if TYPE_CHECKING:
    from gossamer.training.plan import StagePlan

FOLDER = "checkpoints"
_MANIFEST = "files.json"
_STAGE = "stage.json"
_NAME = re.compile(r"step-(\d+)")


def checkpoint_folder(output: Path, step: int) -> Path:
    """Where the checkpoint of `step` is, if there is one."""
    return output / FOLDER / f"step-{step}"


def write_checkpoint(output: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Write the checkpoint of `step`; `fill` puts the files into the folder it is given."""
    root = output / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    scratch = root / f".step-{step}.tmp"
    _remove(scratch)
    scratch.mkdir()
    try:
        fill(scratch)
        sizes = {file.name: file.stat().st_size for file in sorted(scratch.iterdir())}
        (scratch / _MANIFEST).write_text(json.dumps(sizes, indent=1))
        flush_all(scratch)
    except Exception:
        # A full disk must not stay full of what cannot be used.
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    final = checkpoint_folder(output, step)
    former = _set_aside(final)
    scratch.rename(final)
    flush(root)
    _remove(former)
    return final


def latest_checkpoint(output: Path) -> Path | None:
    """The checkpoint of the highest step, checked; None if there is none.

    Raises `CheckpointError` if its files are missing or of another size than when written.
    """
    found = _all(output)
    if not found:
        return None
    folder = found[-1]
    problem = _problem(folder)
    if problem:
        raise CheckpointError(
            f"checkpoint {folder} is damaged: {problem}; remove that folder to resume from an "
            "earlier one"
        )
    return folder


def step_of(checkpoint: Path) -> int:
    """The step after which the checkpoint was written."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise CheckpointError(f"{checkpoint} is not a checkpoint folder (step-N)")
    return int(match[1])


def write_stage(folder: Path, stage: "StagePlan") -> None:
    """Note in the checkpoint `folder` which stage it was written in."""
    (folder / _STAGE).write_text(json.dumps({"index": stage.index, "name": stage.name}))


def read_stage(checkpoint: Path) -> int:
    """The index of the stage that the checkpoint was written in."""
    try:
        return int(json.loads((checkpoint / _STAGE).read_text())["index"])
    except FileNotFoundError:
        # Written before there were stages.
        return 0


@contextmanager
def as_checkpoint_error(checkpoint: Path) -> Iterator[None]:
    """Turn any error inside into one that says that the checkpoint cannot be loaded."""
    try:
        yield
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"checkpoint {checkpoint} cannot be loaded: {lines[0]}; remove that folder to resume "
            "from an earlier one"
        ) from error


def prune_checkpoints(output: Path, keep: int, *, best: int | None = None) -> None:
    """Remove all but the latest `keep` checkpoints and that of the step `best`, and what killed
    processes left behind."""
    for folder in _all(output)[:-keep]:
        if step_of(folder) != best:
            _remove(_set_aside(folder))
    for leftover in (output / FOLDER).glob(".step-*"):
        _remove(leftover)


def _all(output: Path) -> list[Path]:
    root = output / FOLDER
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if _NAME.fullmatch(p.name)), key=step_of)


def _problem(folder: Path) -> str | None:
    try:
        sizes: dict[str, int] = json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{_MANIFEST} is missing or unreadable"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def _set_aside(folder: Path) -> Path:
    """Rename a checkpoint, if there is one, such that it is never seen half removed."""
    grave = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        _remove(grave)
        folder.rename(grave)
    return grave


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
