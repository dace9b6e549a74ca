"""Which process of a run this one is, as torchrun or the first process has said."""

import os
from pathlib import Path

from gossamer.errors import SettingError
from gossamer.training.settings import RunSettings


def launched_rank() -> int:
    """The rank that this process was started with, before it has joined the others; else 0."""
    return int(os.environ.get("RANK", "0")) if launched_size() > 1 else 0


def launched_size() -> int:
    """The number of processes that this one was started with; 1: it was started alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int:
    """The place of this process among those on this machine, by which it takes its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched_size() > 1 else 0


def with_launched_processes(settings: RunSettings) -> RunSettings:
    """`settings` with the number of processes that torchrun has started, if it has.

    Raises `SettingError` if they ask for another number.
    """
    size = launched_size()
    if size == 1 or settings.processes == size:
        return settings
    if settings.processes != 1:
        raise SettingError(
            f"processes={settings.processes}, but this run was started as {size} processes; leave "
            "out the one or the other, or give both the same number"
        )
    return settings.model_copy(update={"processes": size})


def last_words(order: Path, rank: int) -> Path:
    """The file in which the process `rank`, started by `order`, says why it has ended."""
    return order.with_name(f"last-words-{rank}.txt")


def end_of_part(order: Path, rank: int) -> Path:
    """The file by which the process `rank`, started by `order`, says that its part is done."""
    return order.with_name(f"done-{rank}")
