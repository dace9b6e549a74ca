"""Has the tokens of files counted, one file after the other, and keeps what was found."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from gossamer.errors import GossamerError, JobError
from gossamer.files import write_whole
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.store.records import FileRecord

MAX_SECONDS = 60
MAX_BYTES = 6 * 2**30
MAX_ANSWER_BYTES = 4 * 2**20


class TokenCounts:
    """Counts the tokens of files for one base model; from any thread, not for the event loop."""

    def __init__(self, blobs: BlobFolder, model: Path) -> None:
        """`model` is the folder of the base model, whose tokenizer counts."""
        self._blobs = blobs
        self._model = model
        self._counting = threading.Lock()

    def of(self, record: FileRecord) -> dict[str, Any]:
        """Return what `jobs.files.tokens.sample` says of a file; waits for a process if it is new.

        Raises `JobError` with the reason if nothing can be counted.
        """
        ending = PurePosixPath(record.filename).suffix.lower()
        # Beside the bytes, so that it goes when they do; of each model its own.
        place = self._blobs.report(record.sha256, f"{ending}.{self._model.name}.tokens")
        with self._counting:
            found = _stored(place)
            if found is None:
                found = self._count(self._blobs.path(record.sha256), f"file{ending}")
                with suppress(GossamerError, OSError):
                    write_whole(place, json.dumps(found), mode=0o600)
        if "error" in found:
            raise JobError(str(found["error"]), code="tokens_not_counted")
        return found

    def _count(self, path: Path, name: str) -> dict[str, Any]:
        limits = {"max_seconds": MAX_SECONDS, "max_bytes": MAX_BYTES}
        question = {"path": str(path), "name": name, "model": str(self._model), **limits}
        environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "gossamer.jobs.files.tokens"],
                input=f"{json.dumps(question)}\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                text=True,
                timeout=2 * MAX_SECONDS,
                env={**os.environ, **environment},
            )
        except subprocess.TimeoutExpired:
            return {"error": "the tokens of this file could not be counted in time"}
        try:
            found: dict[str, Any] = json.loads(done.stdout[:MAX_ANSWER_BYTES])
        except ValueError:
            return {"error": "the tokens of this file could not be counted"}
        return found


def _stored(place: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found
