"""The worker's way to the database, on a thread that does not give way to other processes.

Training runs at idle priority. On a busy machine a thread of that priority that holds the write
lock of SQLite may not run for many seconds, and all others, the server's above all, would wait for
it. So every transaction is made by one thread, which keeps the priority that it began with.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore


class PromptStore(JobStore):
    """A store whose tables are asked on a thread of its own; make it before priority is lowered.

    Who is interrupted while it waits goes on at once; what was asked is done all the same.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        # It inherits the priority of now.
        self._thread.submit(int).result()
        for name, table in list(vars(self).items()):
            if name not in ("database", "_thread"):
                setattr(self, name, _OnThread(table, self._thread))

    @classmethod
    def join(cls, settings: JobsSettings) -> "PromptStore":
        """Use tables that a server has made."""
        return cls(super().join(settings).database)

    def close(self) -> None:
        """Close all connections, and end the thread."""
        self._thread.shutdown()
        super().close()


class _OnThread:
    """A table, each method of which is called on another thread."""

    def __init__(self, table: object, thread: ThreadPoolExecutor) -> None:
        self._table = table
        self._thread = thread

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._table, name))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._thread.submit(method, *args, **kwargs).result()
