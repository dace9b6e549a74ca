"""Run the `gossamer` command as a child process and measure it."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

GOSSAMER = (sys.executable, "-m", "gossamer.cli.main")


class DemoError(Exception):
    """A step of the demo failed; the message says which and where to look."""


@dataclass(frozen=True)
class Usage:
    """The time and memory that one child process took."""

    seconds: float
    peak_bytes: int


def shown(arguments: Sequence[str]) -> str:
    """Format the command as a person would type it."""
    return "gossamer " + shlex.join(arguments)


def run(arguments: Sequence[str]) -> Usage:
    """Run `gossamer ARGUMENTS` on this terminal until it ends; `DemoError` if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([*GOSSAMER, *arguments])
    try:
        code, peak = wait(process)
    except KeyboardInterrupt:
        # The command has had the same signal and may be saving what it has.
        process.wait()
        raise
    if code != 0:
        raise DemoError(f"`{shown(arguments)}` ended with exit code {code}")
    return Usage(time.perf_counter() - start, peak)


def wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> tuple[int, int]:
    """Wait for the end of `process`; its exit code and the most memory it held, in bytes.

    Raises `TimeoutError` if it still runs after `timeout` seconds.
    """
    start = time.perf_counter()
    while True:
        pid, status, usage = os.wait4(process.pid, 0 if timeout is None else os.WNOHANG)
        if pid:
            break
        if timeout is not None and time.perf_counter() - start > timeout:
            raise TimeoutError
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return process.returncode, usage.ru_maxrss * unit
