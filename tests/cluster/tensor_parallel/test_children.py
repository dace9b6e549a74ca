"""Child processes: their end is told, and they end with whoever has started them."""

import os
import queue
import shutil
import signal
import subprocess
import sys
import time

import pytest
from ranks_case import is_running, wait_until

from gossamer.children import Children

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_the_end_of_each_child_is_told_with_its_code():
    ends = queue.Queue()
    command = [sys.executable, "-c", "import os, sys; sys.exit(10 + int(os.environ['RANK']))"]
    children = Children({1: command, 3: command}, lambda rank, code: ends.put((rank, code)))
    assert {ends.get(timeout=10) for _ in range(2)} == {(1, 11), (3, 13)}
    children.end()


def test_a_killed_child_is_told_by_its_signal_and_kill_ends_the_rest():
    ends = queue.Queue()
    children = Children({1: SLEEP, 2: SLEEP}, lambda rank, code: ends.put((rank, code)))
    os.kill(children.pids[2], signal.SIGKILL)
    assert ends.get(timeout=10) == (2, -signal.SIGKILL)
    children.end(seconds=0.05)
    assert ends.get(timeout=10) == (1, -signal.SIGKILL)
    assert not any(map(is_running, children.pids.values()))


def test_a_command_that_does_not_exist_is_an_error_and_starts_nothing_else():
    with pytest.raises(FileNotFoundError):
        Children({1: SLEEP, 2: ["/no/such/command"]}, lambda rank, code: None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell children")
def test_children_are_killed_with_their_parent_though_a_thread_has_started_them(tmp_path):
    """The parent is killed itself, so it cannot see to it."""
    child = (
        "import sys, time; from gossamer.children import follow_parent; follow_parent();"
        "open(sys.argv[1], 'w').close(); time.sleep(60)"
    )
    ready = str(tmp_path / "ready")
    parent = (
        "import sys, threading, time; from gossamer.children import Children\n"
        "def start():\n"
        f"    made = Children({{1: [sys.executable, '-c', {child!r}, {ready!r}]}}, print)\n"
        "    print(made.pids[1], flush=True)\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join(); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(process.stdout.readline())
        wait_until(lambda: os.path.exists(ready))
        time.sleep(0.05)
        assert is_running(pid), "it lives on though the thread that has started it has ended"
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: not is_running(pid))


FOLLOWS = [
    sys.executable,
    "-c",
    "import sys; from gossamer.children import follow_parent; follow_parent(); sys.exit(7)",
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell children")
def test_children_of_process_1_run_as_those_of_any_other():
    """A container's command is process 1, which is also who inherits orphans there."""
    inside = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"]).returncode != 0:
        pytest.skip("this system lets its users make no process 1")
    parent = (
        "import os, queue; from gossamer.children import Children\n"
        "ends = queue.Queue()\n"
        f"Children({{1: {FOLLOWS!r}}}, lambda rank, code: ends.put(code))\n"
        "print(os.getpid(), ends.get(timeout=30))\n"
    )
    done = subprocess.run(
        [*inside, sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "7"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell children")
def test_a_child_whose_parent_ended_before_it_could_ask_ends_too():
    """Whoever has inherited it: here that is this process, which has not process id 1."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    orphan = {**os.environ, "GOSSAMER_PARENT": str(gone.pid)}
    assert subprocess.run(FOLLOWS, env=orphan).returncode == 1
    cared_for = {**os.environ, "GOSSAMER_PARENT": str(os.getpid())}
    assert subprocess.run(FOLLOWS, env=cared_for).returncode == 7
