"""Child processes: their end is told, and they end with whoever has started them."""

import os
import queue
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
