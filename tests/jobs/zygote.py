"""A process that has everything imported and forks workers and servers, which then start at once.

Run as a program: `zygote.py SOCKET MODEL FOLDER`. It first trains once, undisturbed, in
FOLDER/whole, which imports what training needs; then it forks what it is asked for. Its children
are no one's children for a server: it sees them as it sees those of a former server.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


class ForkedChild:
    """A forked process as a server knows its own: alive, or gone without a code."""

    def __init__(self, pid):
        from gossamer.jobs.process import ProcessIdentity, _started, here

        self.pid = pid
        # Of one that is gone already there is no start; it has ended.
        self._identity = ProcessIdentity(here(), pid, _started(pid) or -1.0)

    def poll(self):
        """The code of a process that was killed, since no other is known."""
        return -signal.SIGKILL if self._identity.has_ended() else None


class Zygote:
    """The door to the process, for the tests and for the servers that it has forked."""

    def __init__(self, address):
        self._address = str(address)

    def __call__(self, job, attempt):
        """Start a worker; this is a launcher."""
        job.root.mkdir(exist_ok=True)
        return ForkedChild(self._ask(what="worker", job=str(job.root), attempt=attempt))

    def with_settings(self, settings):
        """The same for workers of these settings."""
        other = Zygote(self._address)
        other._settings = settings.model_dump_json()
        return other

    def server(self, settings):
        """Start a server that only supervises; returns the number of the process."""
        return self.with_settings(settings)._ask(what="server")

    def _ask(self, **order):
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(60)
            link.connect(self._address)
            link.sendall(json.dumps({**order, "settings": self._settings}).encode() + b"\n")
            return int(link.makefile().readline())


def start(model, folder):
    """Start the process; returns it and its door once the undisturbed run is over."""
    address = folder / "zygote.sock"
    helpers = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    process = subprocess.Popen(
        [sys.executable, __file__, str(address), str(model), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([*helpers, os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert process.stdout.readline() == "ready\n", "the undisturbed run failed"
    process.stdout.close()
    return process, Zygote(address)


def _worker(order):
    from gossamer.jobs.settings import JobsSettings
    from gossamer.jobs.worker.work import work

    folder = Path(order["job"])
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    settings = JobsSettings.model_validate_json(order["settings"])
    return work(settings, folder.name, order["attempt"])


def _server(order, address):
    from gossamer.jobs.files.service import FileService
    from gossamer.jobs.files.sweeper import Sweeper
    from gossamer.jobs.settings import JobsSettings
    from gossamer.jobs.store import JobStore
    from gossamer.jobs.supervise.supervisor import Supervisor

    settings = JobsSettings.model_validate_json(order["settings"])
    log = os.open(settings.folder.root / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    store = JobStore.open(settings)
    Sweeper(store, FileService(store, settings), settings).begin()
    supervisor = Supervisor(store, settings, Zygote(address).with_settings(settings))
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    parent = os.getppid()
    supervisor.start()
    # Tests that were cut off leave no server behind.
    while not asked and os.getppid() == parent:
        time.sleep(0.02)
    supervisor.stop()
    store.close()
    return 0


def _fork(order, address, listener):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        listener.close()
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = _worker(order) if order["what"] == "worker" else _server(order, address)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(address, model, folder):
    """Train once, then fork until the one who asks is gone."""
    import torch

    torch.set_num_threads(1)
    from runs import quiet_tune, write_rows
    from worker_case import TRAINING

    import gossamer.jobs.files.sweeper
    import gossamer.jobs.store
    import gossamer.jobs.supervise.supervisor
    import gossamer.jobs.worker.work  # noqa: F401

    rows = write_rows(Path(folder) / "rows.jsonl")
    quiet_tune(model, rows, f"{folder}/whole", rank=4, seed=5, **TRAINING)
    # Ended children leave at once.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(1.0)
        print("ready", flush=True)
        while os.getppid() == parent:
            try:
                link, _ = listener.accept()
            except TimeoutError:
                continue
            with link:
                order = json.loads(link.makefile().readline())
                link.sendall(f"{_fork(order, address, listener)}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
