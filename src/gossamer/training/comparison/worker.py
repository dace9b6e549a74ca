"""The process of one job: `python -m gossamer.training.comparison.worker FOLDER`.

It reads `FOLDER/job.json`, tells its progress on standard output, a JSON object a line, and leaves
`FOLDER/outcome.json`. What libraries print goes to standard error.
"""

import json
import os
import signal
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock

from gossamer.errors import GossamerError
from gossamer.files import disk_trouble
from gossamer.training.comparison.folder import JobFolder, read_json
from gossamer.training.comparison.jobs import Job, carry_out

INTERRUPTED, FAILED = 130, 1
# How long a worker whose parent was killed may take to end its step.
_PATIENCE = 600.0


class Teller:
    """Writes events; once the reader has gone, asks the run to save and stop."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._alone = False

    def __call__(self, event: dict[str, Any]) -> None:
        if self._alone:
            return
        try:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self._alone = True
            signal.raise_signal(signal.SIGTERM)


def main(folder: Path) -> int:
    """Do the job in `folder` and return the exit code."""
    tell = Teller(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    with redirect_stdout(sys.stderr):
        try:
            return _work(JobFolder(folder), tell)
        except KeyboardInterrupt:
            return INTERRUPTED
        except GossamerError as error:
            tell({"event": "failed", "error": type(error).__name__, "reason": str(error)})
        except Exception as error:
            traceback.print_exc()
            trouble = disk_trouble(error)
            kind = "TrainingError" if trouble is None else "StorageError"
            tell({"event": "failed", "error": kind, "reason": trouble or _unexpected(error)})
    return FAILED


def _work(folder: JobFolder, tell: Teller) -> int:
    described = read_json(folder.job)
    if described is None:
        raise FileNotFoundError(folder.job)
    with FileLock(folder.lock, timeout=_PATIENCE):
        folder.finish(carry_out(Job(**described), folder, tell))
    return 0


def _unexpected(error: Exception) -> str:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "not enough memory; try a smaller batch_size or max_length"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}".rstrip(": ")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
