"""The process that reads a file that came from somebody else: `python -m` this module.

A question comes as one line of JSON on the standard input; lines of JSON go to the standard output,
the last of which is the answer: the report on a file, after some on its first rows, or what two
files have in common. Whatever the file does, it does it to this process, which has limits of memory
and of time.
"""

import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

MAX_WRITTEN = 2**20
"""The most bytes of a file that such a process writes: some libraries try a folder out."""


def main() -> int:
    """Answer one question."""
    question = json.loads(sys.stdin.readline())
    limit_process(question["max_bytes"], question["max_seconds"])
    from gossamer.errors import DataError
    from gossamer.jobs.files.likeness import overlap
    from gossamer.jobs.files.report import failed, open_rows, reports_on

    path, name = Path(question["path"]), question["name"]
    try:
        if "held_out" in question:
            give_way()
            held_out = open_rows(Path(question["held_out"]), question["held_out_name"])
            _tell(overlap(open_rows(path, name), held_out))
            return 0
        for number, report in enumerate(reports_on(path, name)):
            _tell(report)
            if not number:
                give_way()
    except MemoryError:
        _tell(
            failed(
                "the file needs too much memory to be read; send .jsonl or .parquet, which are "
                "read row by row"
            )
        )
    except (DataError, OSError) as error:
        _tell(failed(str(error)))
    return 0


def _tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


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


def give_way() -> None:
    """Let other processes have the processors first; not before the first rows are told of, for
    which somebody waits."""
    with suppress(OSError):
        os.nice(5)


if __name__ == "__main__":
    sys.exit(main())
