"""The list of adapters: one look for all who ask."""

import asyncio
import threading

import pytest

from gossamer.errors import AdapterReadError
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http import catalogue as module
from gossamer.serving.http.catalogue import Catalogue


class Disk:
    def __init__(self):
        self.looks = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def adapters(self):
        self.looks += 1
        number = self.looks
        self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return [AdapterStatus(name=f"look-{number}", state="registered")]


def names(statuses):
    return [status.name for status in statuses]


def run(scenario):
    disk = Disk()
    catalogue = Catalogue(disk)
    try:
        return asyncio.run(scenario(disk, catalogue))
    finally:
        catalogue.close()


def test_all_who_ask_meanwhile_share_one_look_and_may_leave():
    async def scenario(disk, catalogue):
        disk.gate.clear()
        calls = [asyncio.ensure_future(catalogue.statuses()) for _ in range(20)]
        await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.sleep(0)
        disk.gate.set()
        assert [names(await call) for call in calls[1:]] == [["look-1"]] * 19
        assert disk.looks == 1

    run(scenario)


def test_a_look_counts_for_a_while_that_grows_with_what_it_took(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    async def scenario(disk, catalogue):
        disk.gate.clear()
        first = asyncio.ensure_future(catalogue.statuses())
        while not disk.looks:
            await asyncio.sleep(0)
        now[0] += 0.5
        disk.gate.set()
        await first
        now[0] += 4.9
        rendered = [await catalogue.rendered("key", lambda found: [names(found)]) for _ in "ab"]
        assert rendered[0] is rendered[1]
        assert rendered[0] == [["look-1"]]
        now[0] += 0.2
        assert names(await catalogue.statuses()) == ["look-2"]
        assert await catalogue.rendered("key", names) == ["look-3"]  # took no time: asked anew

    run(scenario)


def test_a_change_through_the_server_is_seen_at_once():
    async def scenario(disk, catalogue):
        disk.gate.clear()
        before = asyncio.ensure_future(catalogue.statuses())
        while not disk.looks:
            await asyncio.sleep(0)
        catalogue.forget()
        after = asyncio.ensure_future(catalogue.statuses())
        await asyncio.sleep(0)
        disk.gate.set()
        assert names(await before) == ["look-1"]
        assert names(await after) == ["look-2"]

    run(scenario)


def test_a_disk_that_fails_is_asked_again_by_the_next():
    async def scenario(disk, catalogue):
        disk.error = AdapterReadError("no answer")
        with pytest.raises(AdapterReadError):
            await catalogue.statuses()
        disk.error = None
        assert names(await catalogue.statuses()) == ["look-2"]

    run(scenario)
