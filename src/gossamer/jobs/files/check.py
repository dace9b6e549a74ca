"""The process that reads a file that came from somebody else: `python -m` this module.

A question comes as one line of JSON on the standard input, the report goes to the standard output.
Whatever the file does, it does it to this process, which has limits of memory and of time.
"""

import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

MAX_WRITTEN = 2**20
"""The most bytes of a file that such a process writes: some libraries try a folder out."""


def main() -> int:
    """Answer one question."""
    question = json.loads(sys.stdin.readline())
    limit_process(question["max_bytes"], question["max_seconds"])
    from gossamer.jobs.files.report import failed, report_on

    try:
        report = report_on(Path(question["path"]), question["name"])
    except MemoryError:
        report = failed(
            "the file needs too much memory to be read; send .jsonl or .parquet, which are read "
            "row by row"
        )
    json.dump(report, sys.stdout)
    return 0


def limit_process(max_bytes: int, max_seconds: int) -> None:
    """Bound the memory, the time and the files of this process, as far as the system lets it."""
    for what, value in (
        (resource.RLIMIT_AS, max_bytes),
        (resource.RLIMIT_CPU, max_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, MAX_WRITTEN),
    ):
        # Some systems refuse some limits; the one who waits has a time limit of its own.
        with suppress(OSError, ValueError):
            resource.setrlimit(what, (value, value))
    with suppress(OSError):
        os.nice(5)


if __name__ == "__main__":
    sys.exit(main())
