"""Folders of DATA/exports: what jobs made that is not served, for people to take away."""

import os
import shutil
from pathlib import Path
from typing import Any

from gossamer.files import replacing_folder

_LEFT_BEHIND = shutil.ignore_patterns("checkpoints", ".*")


def copy_folder(source: Path, target: Path) -> None:
    """Give the files of a finished run a second place, whole or not at all.

    Without its checkpoints, and without taking room on the disk where it knows links.
    """
    if not target.is_dir():
        with replacing_folder(target) as finished:
            shutil.copytree(source, finished, ignore=_LEFT_BEHIND, copy_function=_link_or_copy)


def export_facts(folder: Path, what: str) -> dict[str, Any]:
    """Tell of an export: its `name`, its `bytes`, and `what` it is."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"name": folder.name, "bytes": size, "what": what}


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
