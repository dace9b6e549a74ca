"""Decides what becomes of an adapter that cannot be read or placed.

An adapter with a fault is refused until its files change. When the system fails (too many open
files, no memory, a disk that fails or hangs) the adapter is not to blame: its entry ends, and the
next request makes a new one and tries again.
"""

import logging
import os

from gossamer.adapters.reading.regular_file import is_passing
from gossamer.errors import AdapterFormatError, AdapterReadError, GossamerError
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.adapter_state import AdapterState

log = logging.getLogger(__name__)


def end_by(entry: AdapterEntry, error: BaseException, what: str) -> None:
    """Refuse `entry` for `error`, or give it up if the system has failed. `what` it cannot be."""
    if not isinstance(error, GossamerError):
        reason = _passing(error)
        if reason is not None:
            error = AdapterReadError(f"adapter {entry.name} {what} now: {reason}; try again")
        else:  # a bug of ours must not take the engine down
            log.error("adapter %s %s", entry.name, what, exc_info=error)
            reason = str(error) or type(error).__name__
            error = AdapterFormatError(f"adapter {entry.name} {what}: {reason}")
    if isinstance(error, AdapterReadError):
        give_up(entry, error)
    else:
        refuse(entry, error)


def refuse(entry: AdapterEntry, error: GossamerError) -> None:
    """Refuse `entry`: no request gets it until its files change."""
    entry.end(AdapterState.REFUSED, _without_path(error, entry))


def give_up(entry: AdapterEntry, error: GossamerError) -> None:
    """Give `entry` up: those who wait for it are told to try again."""
    log.warning("%s (%s)", error, entry.path)
    entry.end(AdapterState.UNREADABLE, _without_path(error, entry))


def too_slow() -> AdapterReadError:
    """Return the error that reading has taken longer than it may."""
    return AdapterReadError(
        "reading the adapter takes longer than max_read_seconds: the disk hangs or is slow; try "
        "again later"
    )


def _passing(error: BaseException) -> str | None:
    """What failed, if it was the system; None for a fault of the adapter or of ours."""
    if isinstance(error, OSError) and is_passing(error):
        return error.strerror or type(error).__name__
    # torch has no class of its own for memory that the processor does not have.
    is_memory = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
    return "no memory is left" if is_memory else None


def _without_path(error: GossamerError, entry: AdapterEntry) -> GossamerError:
    """`error` as clients may see it: the name instead of a place on the server's disk."""
    error.args = (str(error).replace(os.fspath(entry.path), entry.name),)
    return error
