"""Runs a `gossamer serve` of our own for a while: the time of a test or of a chat."""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gossamer.errors import ServingError

_READY = re.compile(r"ready at (\S+) ")
_PATIENCE = 600.0
"""The seconds in which the server must be ready; the first start ever compiles kernels."""


@contextmanager
def child_server(model: str, adapters: Path | None, options: Sequence[str] = ()) -> Iterator[str]:
    """Start a server on a free port of this machine; yields its address; stops it at the end.

    `options`: more of `gossamer serve`. Raises `ServingError` with the server's last line if it
    does not start.
    """
    command = [sys.executable, "-m", "gossamer.cli.main", "serve", "--model", model, "--port", "0"]
    command += options
    if adapters is not None:
        command += ["--adapters", str(adapters)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield _wait_for_address(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_address(process: "subprocess.Popen[bytes]", log: IO[str]) -> str:
    deadline = time.monotonic() + _PATIENCE
    while True:
        log.seek(0)
        output = log.read()
        if found := _READY.search(output):
            return found.group(1)
        if process.poll() is not None or time.monotonic() > deadline:
            last = (output.strip().splitlines() or ["it said nothing"])[-1]
            raise ServingError(
                f"the server did not start: {last.removeprefix('gossamer: error: ')}"
            )
        time.sleep(0.1)
