"""Processes whose parent has ended are found and ended while a cluster starts."""

import subprocess
import sys

import psutil
import pytest

from gossamer.cluster.replicas.leftovers import adopting_orphans

SLEEP = "import time; time.sleep(600)"
LEAVES_ONE = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], stdout=subprocess.DEVNULL)
print(child.pid)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone gives orphans to another process")
def test_orphans_are_ended_and_what_ran_before_goes_on(monkeypatch):
    monkeypatch.setattr("gossamer.cluster.replicas.leftovers.SECONDS", 0.2)
    former = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        with adopting_orphans() as end_all:
            told = subprocess.check_output([sys.executable, "-c", LEAVES_ONE], text=True)
            orphan = psutil.Process(int(told))
            assert orphan.ppid() == psutil.Process().pid
            end_all()
            assert not orphan.is_running()
        assert former.poll() is None
    finally:
        former.kill()
        former.wait()
