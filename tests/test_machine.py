"""What a process may use: pretended trees of control groups, of both versions."""

import os
from types import SimpleNamespace

import pytest

from gossamer.machine import fit_threads, total_memory, usable_cpus, usable_memory

MIB = 2**20
FREE = 64 * 1024 * MIB
UNLIMITED = "9223372036854771712"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """`tree(own, files, version=2)`: a process in the group `own`; returns its /proc folder."""
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=FREE, total=FREE)
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)

    def make(own, files, *, version=2, root="/"):
        mounts = []
        names = ["unified"] if version == 2 else ["memory", "cpu,cpuacct"]
        for number, name in enumerate(names):
            kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", f"rw,{name}")
            folder = tmp_path / name
            folder.mkdir()
            mounts.append(f"{30 + number} 23 0:{number} {root} {folder} rw - {kind} x {options}")
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        proc = tmp_path / "proc"
        proc.mkdir()
        (proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + "\n".join(mounts))
        lines = [f"0::{own}"] if version == 2 else [f"4:memory:{own}", f"3:cpu,cpuacct:{own}"]
        (proc / "cgroup").write_text("\n".join(lines) + "\n")
        return proc

    return make


def memory(limit, used, idle=0, high="max"):
    return {
        "memory.max": str(limit),
        "memory.high": str(high),
        "memory.current": str(used),
        "memory.stat": f"anon 5\ninactive_file {idle}\nactive_file 7\n",
    }


def at(folder, files):
    return {f"{folder}/{name}": text for name, text in files.items()}


def test_without_groups_the_machine_itself_counts(tree, tmp_path):
    nothing = tmp_path / "none"
    tree("/", {})
    assert usable_memory(nothing) == FREE
    assert usable_cpus(nothing) == 16


def test_the_affinity_counts(tree, tmp_path, monkeypatch):
    proc = tree("/", at("unified", {"cpu.max": "800000 100000"}))
    assert usable_cpus(proc) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert usable_cpus(proc) == 2


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("6400000 100000", 16),
        ("", 16),
        ("100000 0", 16),
    ],
)
def test_a_quota_of_time_is_so_many_processors(tree, quota, count):
    assert usable_cpus(tree("/a", at("unified/a", {"cpu.max": quota}))) == count


def test_memory_is_the_limit_less_what_is_held_and_cannot_be_dropped(tree):
    proc = tree("/a", at("unified/a", memory(1000 * MIB, 300 * MIB, idle=100 * MIB)))
    assert usable_memory(proc) == 800 * MIB


def test_the_soft_limit_counts_too(tree):
    proc = tree("/a", at("unified/a", memory(1000 * MIB, 300 * MIB, high=500 * MIB)))
    assert usable_memory(proc) == 200 * MIB


def test_the_most_that_could_be_had_is_the_smallest_limit_whatever_is_held(tree):
    files = at("unified/pod/box", memory("max", 100 * MIB))
    files |= at("unified/pod", memory(600 * MIB, 500 * MIB, high=700 * MIB))
    assert total_memory(tree("/pod/box", files)) == 600 * MIB


def test_the_smallest_limit_on_the_way_up_counts(tree):
    files = {
        **at("unified/pod/box", memory("max", 100 * MIB)),
        **at("unified/pod", memory(600 * MIB, 500 * MIB)),
        **at("unified", memory(10_000 * MIB, 4000 * MIB)),
        "unified/pod/box/cpu.max": "max 100000",
        "unified/pod/cpu.max": "300000 100000",
        "unified/cpu.max": "900000 100000",
    }
    proc = tree("/pod/box", files)
    assert usable_memory(proc) == 100 * MIB
    assert usable_cpus(proc) == 3


def test_a_group_over_its_limit_leaves_nothing(tree):
    proc = tree("/a", at("unified/a", memory(100 * MIB, 130 * MIB)))
    assert usable_memory(proc) == 0


def test_a_container_that_sees_its_group_as_the_top(tree):
    # Inside, the mount shows the container's own group; its name is the one outside.
    files = at("unified", {**memory(500 * MIB, 100 * MIB), "cpu.max": "100000 100000"})
    proc = tree("/system.slice/box.scope", files, root="/system.slice/box.scope")
    assert usable_memory(proc) == 400 * MIB
    assert usable_cpus(proc) == 1


@pytest.mark.parametrize("own", ["/docker/abc", "/../../elsewhere"])
def test_a_group_that_cannot_be_seen_is_taken_for_the_mounted_one(tree, own):
    proc = tree(own, at("unified", memory(500 * MIB, 100 * MIB)))
    assert usable_memory(proc) == 400 * MIB


def test_version_1(tree):
    def held(limit, used, idle):
        return {
            "memory.limit_in_bytes": str(limit),
            "memory.usage_in_bytes": str(used),
            "memory.stat": f"inactive_file 1\ntotal_inactive_file {idle}\n",
        }

    files = {
        **at("memory/pod/box", held(UNLIMITED, 90 * MIB, 0)),
        **at("memory/pod", held(300 * MIB, 200 * MIB, 50 * MIB)),
        **at("memory", held(UNLIMITED, 9000 * MIB, 0)),
        **at("cpu,cpuacct/pod/box", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}),
        **at("cpu,cpuacct/pod", {"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"}),
    }
    proc = tree("/pod/box", files, version=1)
    assert usable_memory(proc) == 150 * MIB
    assert usable_cpus(proc) == 4


def test_threads_are_never_more_than_usable_processors(monkeypatch):
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr("gossamer.machine.usable_cpus", lambda: 2)
        fit_threads()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        fit_threads()
        assert torch.get_num_threads() == 1, "what the user has chosen stays"
    finally:
        torch.set_num_threads(before)


def test_a_server_in_a_container_takes_its_defaults_from_the_container(tiny_model, monkeypatch):
    import torch

    from gossamer.serving.engine.build import build_engine
    from gossamer.serving.settings import ServeSettings

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr("gossamer.machine.usable_cpus", lambda: 1)
        monkeypatch.setattr("gossamer.serving.device.cpu.usable_memory", lambda: 8 * MIB)
        engine = build_engine(ServeSettings(model=str(tiny_model), backend="reference"))
        try:
            stats = engine.stats()
            assert torch.get_num_threads() == 1
            assert stats.blocks_total == 2 * MIB // 12288, "a quarter; the tiny model's blocks"
        finally:
            engine.shutdown()
    finally:
        torch.set_num_threads(before)
