"""Looks at adapter folders on threads of their own: a disk that hangs holds nothing else up.

What a name means is looked up for each request, so that new files count at once; and the folders
may lie on a network disk.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from gossamer.errors import AdapterReadError
from gossamer.serving.core.adapter import AnyAdapter
from gossamer.serving.core.daemon_threads import DaemonThreads

T = TypeVar("T")

LOOK_SECONDS = 10.0
"""A name that cannot be looked up within this time is refused with status 503."""

LIST_SECONDS = 60.0
"""The time limit of listing all; tens of thousands of folders take seconds on a slow disk."""


class AdapterLooks:
    """Runs what looks at the disk, for callers that must not wait or not for ever."""

    def __init__(self, look_up: Callable[[str], AnyAdapter]) -> None:
        self._look_up = look_up
        self._names = DaemonThreads("gossamer-names", limit_seconds=LOOK_SECONDS, late=_no_answer)
        self._lists = DaemonThreads("gossamer-lists", limit_seconds=LIST_SECONDS, late=_no_answer)

    def look_up(self, name: str) -> "Future[AnyAdapter]":
        """Find what `name` means; fails as looking it up does, or with `AdapterReadError`."""
        return self._names.submit(self._look_up, name)

    def listing(self, of_all: Callable[[], T]) -> T:
        """Return what `of_all` returns; `AdapterReadError` if the disk does not answer."""
        return self._lists.submit(of_all).result()


def _no_answer() -> AdapterReadError:
    return AdapterReadError("the disk with the adapters does not answer; try again")
