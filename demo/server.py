"""Start `gossamer serve`, wait until it is ready, stop it and check that it ended well."""

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from demo.command import GOSSAMER, DemoError, Usage, shown, wait

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
READY = re.compile(r"ready at (http://\S+) with")


class Server:
    """A running `gossamer serve` on a free port of this machine."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        # Port 0: the server picks a free one and says which.
        self.arguments = ["serve", *arguments, "--port", "0"]
        self.url = ""
        self.log = log
        self.seconds_to_ready = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start and return once the server has said that it is ready."""
        self._started = time.perf_counter()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*GOSSAMER, *self.arguments], stdout=log, stderr=subprocess.STDOUT
            )
        while not (ready := READY.search(self.log.read_text())):
            if self._process.poll() is not None:
                raise DemoError(f"`{shown(self.arguments)}` ended early:\n{self.log.read_text()}")
            if time.perf_counter() - self._started > READY_SECONDS:
                self.kill()
                raise DemoError(f"the server was not ready in {READY_SECONDS} s; see {self.log}")
            time.sleep(0.05)
        self.seconds_to_ready = time.perf_counter() - self._started
        self.url = ready[1]
        return self

    def stop(self) -> Usage:
        """Send SIGTERM, wait for the end, and check that the exit code is 0."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            code, peak = wait(self._process, timeout=STOP_SECONDS)
        except TimeoutError:
            self.kill()
            raise DemoError(
                f"the server did not stop in {STOP_SECONDS} s; see {self.log}"
            ) from None
        self._process = None
        if code != 0:
            raise DemoError(f"the server ended with exit code {code}; see {self.log}")
        return Usage(time.perf_counter() - self._started, peak)

    def kill(self) -> None:
        """End the process at once if it still runs; for the way out after a failure."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._process = None
