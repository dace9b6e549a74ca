"""Checkpoints of a run that can be served: folders with a whole adapter in them.

Of methods whose checkpoints hold something else than their adapter (those that learn in stages, or
export at the end) none is listed, rather than one that answers wrongly.
"""

import re
from contextlib import suppress
from pathlib import Path

from gossamer.adapters.layout import CONFIG_FILE, WEIGHTS_FILE
from gossamer.jobs.data_folder import DataFolder
from gossamer.jobs.store.records import JobRecord

SERVED_METHODS = frozenset({"lora", "rslora", "dora", "ia3"})
"""Methods of one stage that save in a checkpoint just what they save at the end."""

_STEP = re.compile(r"step-(\d{1,9})")


def checkpoint_name(model: str, step: int) -> str:
    """The name under which the checkpoint of a tuned model is served."""
    return f"{model}:ckpt-step-{step}"


def publish_checkpoints(folder: DataFolder, job: JobRecord) -> dict[int, float]:
    """Link the job's checkpoints that are there into the served folder; returns when each was
    written, by step.

    Links of checkpoints that have been removed go.
    """
    if job.resolved.get("adapter", {}).get("method") not in SERVED_METHODS:
        return {}
    found = _checkpoints(folder.job(job.id).run / "checkpoints")
    for link in folder.served.glob(f"{_literal(job.name)}:ckpt-step-*"):
        text = link.name.rpartition("-")[2]
        if text.isdigit() and int(text) not in found:
            with suppress(FileNotFoundError):
                link.unlink()
    written = {}
    for step, path in found.items():
        link = folder.link(checkpoint_name(job.name, step))
        with suppress(FileExistsError):
            link.symlink_to(Path("..") / path.relative_to(folder.root))
        # The run may remove it in this moment.
        with suppress(FileNotFoundError):
            written[step] = path.stat().st_mtime
    return written


def retire_checkpoints(folder: DataFolder, model: str) -> None:
    """Take all checkpoints of a model out of the served folder."""
    for link in folder.served.glob(f"{_literal(model)}:ckpt-step-*"):
        with suppress(FileNotFoundError):
            link.unlink()


def _checkpoints(folder: Path) -> dict[int, Path]:
    found = {}
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            match = _STEP.fullmatch(path.name)
            if match and all((path / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
                found[int(match[1])] = path
    return found


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
