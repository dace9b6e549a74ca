"""A line of JSON for every call, in a file or on standard error."""

import logging
import logging.handlers
import queue
import sys
import threading
from contextlib import suppress
from pathlib import Path

from gossamer.errors import SettingError
from gossamer.serving.http.calls.record import CallRecord
from gossamer.serving.http.json_text import json_bytes

STANDARD_ERROR = Path("-")
MOST_WAITING = 10_000
"""Lines that wait for a slow disk; beyond them calls go unnoted, and a line says how many."""
END_SECONDS = 5.0

log = logging.getLogger(__name__)


class RequestLog:
    """Writes on a thread of its own, so that no call waits for a disk.

    A file that was moved away, as by logrotate, is begun again under its name. While that cannot be
    done, as without its folder, calls go unnoted as they do for a slow disk.
    """

    def __init__(self, path: Path) -> None:
        """Raises `SettingError` if `path` cannot be written to."""
        self._handler = _handler(path)
        self._queue: queue.Queue[CallRecord | None] = queue.Queue(MOST_WAITING)
        self._missed = 0
        self._thread = threading.Thread(target=self._run, name="gossamer-log", daemon=True)
        self._thread.start()

    def tell(self, record: CallRecord) -> None:
        """Have the line of a call written."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._missed += 1

    def close(self) -> None:
        """Write what is waiting, unless the disk does not answer."""
        try:
            self._queue.put(None, timeout=END_SECONDS)
        except queue.Full:
            return
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        is_broken = False
        while (record := self._queue.get()) is not None:
            line = record.as_line()
            missed, self._missed = self._missed, 0
            if missed:
                line["calls_not_noted_before"] = missed
            text = json_bytes(line).decode()
            try:
                self._handler.handle(logging.makeLogRecord({"msg": "%s", "args": (text,)}))
                is_broken = False
            except OSError as error:
                # The handler looks for its file again at the next call.
                self._missed += missed + 1
                if not is_broken:
                    log.warning("calls are not noted: the request log cannot be written: %s", error)
                is_broken = True
        with suppress(OSError):
            self._handler.close()


def _handler(path: Path) -> logging.Handler:
    if path == STANDARD_ERROR:
        return logging.StreamHandler(sys.stderr)
    try:
        return logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        why = error.strerror or error
        raise SettingError(
            f"request_log '{path}' cannot be written: {why}; give a file in a folder that exists "
            "and is yours to write, or - for standard error"
        ) from None
