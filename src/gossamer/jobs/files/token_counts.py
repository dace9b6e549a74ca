"""Has the tokens of files counted, each by a process of its own, and keeps what was found."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.errors import GossamerError, JobError
from gossamer.files import write_whole
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.files.desk import answers
from gossamer.jobs.process import talking_to
from gossamer.jobs.store.records import FileRecord

MAX_SECONDS = 600
MAX_BYTES = 6 * 2**30
MAX_ANSWER_BYTES = 4 * 2**20
PROCESSES = 2
"""Files that are counted at the same time."""

Counts = dict[str, Any]


class _Counting:
    """A count that goes on."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.latest: Counts = {"error": "the tokens of this file could not be counted"}


class TokenCounts:
    """Counts the tokens of files for one base model; from any thread, not for the event loop."""

    def __init__(self, blobs: BlobFolder, model: Path) -> None:
        """`model` is the folder of the base model, whose tokenizer counts."""
        self._blobs = blobs
        self._model = model
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(PROCESSES)
        self._goes_on: dict[Path, _Counting] = {}

    def of(self, record: FileRecord) -> Counts:
        """Return what `jobs.files.tokens.counts` says of a file, as far as it is known; waits for
        its first answer if the file is new, the others come behind.

        Raises `JobError` with the reason if nothing can be counted.
        """
        ending = PurePosixPath(record.filename).suffix.lower()
        # Beside the bytes, so that it goes when they do; of each model its own.
        place = self._blobs.report(record.sha256, f"{ending}.{self._model.name}.counts")
        with self._lock:
            counting = self._goes_on.get(place)
            if counting is None:
                if (found := _stored(place)) is not None:
                    return _usable(found)
                counting = self._goes_on[place] = _Counting()
                work = (counting, place, self._blobs.path(record.sha256), f"file{ending}")
                threading.Thread(target=self._follow, args=work, daemon=True).start()
        counting.has_begun.wait()
        return _usable(counting.latest)

    def _follow(self, counting: _Counting, place: Path, path: Path, name: str) -> None:
        try:
            with self._turns:
                for found in self._count(path, name):
                    counting.latest = found
                    counting.has_begun.set()
            if counting.latest.get("is_all", True):
                with suppress(GossamerError, OSError):
                    write_whole(place, json.dumps(counting.latest), mode=0o600)
        finally:
            with self._lock:
                del self._goes_on[place]
            counting.has_begun.set()

    def _count(self, path: Path, name: str) -> Iterator[Counts]:
        """What a process answers; it ends by itself when no one reads any more."""
        limits = {"max_seconds": MAX_SECONDS, "max_bytes": MAX_BYTES}
        question = {"path": str(path), "name": name, "model": str(self._model), **limits}
        with talking_to("gossamer.jobs.files.tokens") as process:
            timer = threading.Timer(2 * MAX_SECONDS, process.kill)
            timer.start()
            try:
                yield from answers(process, question, MAX_ANSWER_BYTES)
            finally:
                timer.cancel()


def _stored(place: Path) -> Counts | None:
    try:
        found: Counts = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _usable(found: Counts) -> Counts:
    if "error" in found:
        raise JobError(str(found["error"]), code="tokens_not_counted")
    return found
