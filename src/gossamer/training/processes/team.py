"""Puts the processes of a run together and takes them apart again.

`gossamer tune --processes N` is rank 0 itself and starts the others, which meet through a file in a
private folder and end with it; under torchrun or `accelerate launch` all have been started already.
"""

import atexit
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch._C._distributed_c10d import FileStore

from gossamer.children import LOOPBACK, STORE, Children, ready_file, variables
from gossamer.errors import SettingError, TrainingError
from gossamer.machine import usable_cpus
from gossamer.training.processes.launch import (
    end_of_part,
    last_words,
    launched_rank,
    launched_size,
    local_rank,
)
from gossamer.training.settings import RunSettings

TIMEOUT = timedelta(hours=2)
"""So long a process waits for one that evaluates, samples or saves alone."""
_NOTICE_SECONDS = 10.0
"""So long the first process may take to notice that another has ended. With gloo it fails when it
next waits for the others; with NCCL it would wait for `TIMEOUT`."""
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 1.0
_LAST_WORDS_SECONDS = 5.0
"""So long the others may take to tell why they end."""


@contextmanager
def team(settings: RunSettings, *, resume: bool) -> Iterator[None]:
    """Have the processes of the run together inside; nothing happens if it has one.

    Raises `TrainingError` if another process ends before the run does, and `SettingError` if this
    one is in a group of torch.distributed already. If this process started the other and cannot be
    got out of what it waits for, it is ended, with the reason on stderr: the run can be resumed.
    """
    if settings.processes == 1:
        yield
    elif launched_size() > 1:
        if not dist.is_initialized():
            _join(settings)
            # Not after the run: processes that part and meet again through the same store may
            # take what one of them left there for a sign of the other.
            atexit.register(_leave)
        yield
    else:
        with _started(settings, resume=resume):
            yield


@contextmanager
def _started(settings: RunSettings, *, resume: bool) -> Iterator[None]:
    """Be rank 0 of processes that are started here."""
    if dist.is_initialized():
        raise SettingError(
            "this process is in a torch.distributed group already; train in another one"
        )
    size = settings.processes
    with tempfile.TemporaryDirectory(prefix="gossamer-ranks-") as private:
        order = Path(private) / "order.json"
        order.write_text(settings.model_dump_json())
        environment = {
            **LOOPBACK,
            STORE: str(Path(private) / "store"),
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(size),
            # Accelerate sets these where they are missing, and would leave them behind.
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
        }
        words = [sys.executable, "-m", "gossamer.training.follower", str(order)]
        command = [*words, *(["--resume"] if resume else [])]
        threads = {"OMP_NUM_THREADS": str(max(1, usable_cpus() // size))}
        with variables(environment):
            lost = _Lost(order)
            with variables(threads):
                children = Children(dict.fromkeys(range(1, size), command), lost.hear)
            try:
                _wait_for(range(1, size), lost)
                with lost.watched(children):
                    _join(settings)
                    try:
                        yield
                    finally:
                        _leave()
            except RuntimeError as error:
                # What the libraries say of it names sockets.
                lost.check(_LAST_WORDS_SECONDS)
                raise error
            except BaseException:
                children.kill()
                raise
            finally:
                children.end()


class _Lost:
    """The processes that have ended with an error."""

    def __init__(self, order: Path) -> None:
        self._order = order
        self._codes: dict[int, int] = {}

    def hear(self, rank: int, code: int) -> None:
        """On a thread: the process `rank` has ended."""
        if code != 0 and not end_of_part(self._order, rank).exists():
            self._codes[rank] = code

    @contextmanager
    def watched(self, children: Children) -> Iterator[None]:
        """End this process if it is still inside some seconds after another has ended."""
        is_over = threading.Event()
        threading.Thread(target=self._watch, args=(children, is_over), daemon=True).start()
        try:
            yield
        finally:
            is_over.set()

    def _watch(self, children: Children, is_over: threading.Event) -> None:
        while not self._codes:
            if is_over.wait(_WATCH_SECONDS):
                return
        if is_over.wait(_NOTICE_SECONDS):
            return
        # Nothing gets a thread out of a call of NCCL but an abort of the group, after which it
        # would go on with what the call has left, and might save that.
        print(f"gossamer: error: {self._reason()}", file=sys.stderr, flush=True)
        children.kill()
        shutil.rmtree(self._order.parent, ignore_errors=True)
        os._exit(TrainingError.exit_code)

    def check(self, seconds: float = 0.0) -> None:
        """Raise `TrainingError` if one has ended, or does within `seconds`."""
        until = time.monotonic() + seconds
        while not self._codes and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        if self._codes:
            raise TrainingError(self._reason())

    def _reason(self) -> str:
        # The first one; the others may have ended of its loss.
        rank, code = next(iter(self._codes.items()))
        words = last_words(self._order, rank)
        why = words.read_text() if words.exists() else f"exit code {code}"
        return f"process {rank} of the run has ended: {why}"


def _wait_for(ranks: range, lost: _Lost) -> None:
    """Wait until the others are about to join; the group would wait for one that fails before."""
    files = [ready_file(os.environ[STORE], rank) for rank in ranks]
    while not all(file.exists() for file in files):
        lost.check()
        time.sleep(_POLL_SECONDS)


def _join(settings: RunSettings) -> None:
    size = settings.processes
    on_gpus = settings.device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    if STORE in os.environ:
        store = FileStore(os.environ[STORE], size)
        dist.init_process_group(
            backend, store=store, rank=launched_rank(), world_size=size, timeout=TIMEOUT
        )
    else:
        dist.init_process_group(backend, timeout=TIMEOUT)


def _leave() -> None:
    """Leave the group, and have Accelerate forget that there was one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    if dist.is_initialized():
        dist.destroy_process_group()
