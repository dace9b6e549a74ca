"""A worker that takes all memory is killed, and the one who watches over it is not."""

import re
import signal

import pytest
from job_helpers import add_job, messages
from kills_case import is_alive, until

from gossamer.jobs.queue.needs import GIB, MIB, MachineRoom
from gossamer.jobs.supervise import memory_guard
from gossamer.jobs.supervise.room import memory_of

EXPECTED = {"memory": 30 * MIB, "disk": 1}
GREEDY = (
    "print(1, flush=True)\nimport time\nheld = []\n"
    "while True:\n    held.append(bytearray(4 * 2**20))\n    time.sleep(0.005)\n"
)
HOLDS_A_LITTLE = "import time\nheld = bytearray(64 * 2**20)\nprint(1, flush=True)\ntime.sleep(99)\n"


def test_a_worker_that_takes_more_and_more_fails_its_job_and_nothing_else(watched):
    one = watched(code=GREEDY, job_memory_mib=200)
    job = add_job(one.store, estimate=EXPECTED)
    one.supervisor.start()
    until(lambda: one.row(job).status == "failed")
    one.supervisor.stop()
    assert [child.wait() for child in one.children] == [-signal.SIGKILL] * 2
    error = one.row(job).error
    assert error["code"] == "out_of_memory"
    told = re.fullmatch(
        r"the worker took more than 200 MiB of memory, twice \(about 30 MiB were expected, its "
        r"worker held (\d+)(\.\d)? MiB\); lower batch_size or max_length, or set "
        "gradient_checkpointing=true",
        error["message"],
    )
    assert told is not None, error["message"]
    assert int(told[1]) >= 200
    said = messages(one.store, job)
    again = "The worker took more than 200 MiB of memory; going on from the first step"
    assert said.count(again) == 1
    assert said[-1] == error["message"]


@pytest.fixture
def scarce(monkeypatch):
    """A machine on which hardly anything is free."""
    room = MachineRoom(
        memory_total=64 * GIB,
        memory_free=GIB,
        disk_total=GIB,
        disk_free=GIB,
        disk_floor=0,
    )
    monkeypatch.setattr(memory_guard, "measure", lambda settings: room)


def test_when_memory_runs_out_the_worker_goes_that_holds_more_than_was_expected(watched, scarce):
    one = watched(code=HOLDS_A_LITTLE, max_jobs=2)
    jobs = [add_job(one.store, estimate=EXPECTED | {"memory": n * MIB}) for n in (30, 300)]
    one.supervisor.look()
    first, second = one.children
    one.look_until(lambda: one.row(jobs[0]).deaths)
    assert first.wait() == -signal.SIGKILL
    assert is_alive(second.pid)
    assert one.row(jobs[1]).attempt == 1


def test_files_that_are_only_mapped_are_not_held(watched, tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * MIB))
    code = (
        "import mmap, time\n"
        f"with open({str(file)!r}) as file:\n"
        "    seen = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(seen[::4096])\nprint(1, flush=True)\ntime.sleep(99)\n"
    )
    one = watched(code=code)
    job = add_job(one.store, estimate=EXPECTED)
    child = one.waiting(one.settings.folder.job(job.id), 1)
    assert 0 < memory_of(child.pid) < 40 * MIB
