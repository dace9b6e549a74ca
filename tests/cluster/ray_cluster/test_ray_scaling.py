"""Replicas on Ray Serve that come and go with the load, over a folder that all of them see.

Times are printed and not judged, as in `test_ray_cluster`.
"""

import threading
import time

import httpx
import pytest
from ray_case import ADAPTERS, RayCluster

from gossamer.cluster.placement.homes import Homes

pytest.importorskip("ray", reason="needs the packages of the extra cluster: make test-cluster")
pytestmark = pytest.mark.slow

LONG = {"max_tokens": 450, "ignore_eos": True}
"""Of one answer. A replica computes four at a time; with two at a time one replica is enough."""


@pytest.fixture(scope="module")
def scaling(tmp_path_factory):
    """A cluster that begins with one replica and may have two."""
    found = RayCluster(tmp_path_factory.mktemp("scaling"))
    words = ["--adapters", str(found.folder / "runs"), "--replicas", "1", "--max-replicas", "2"]
    words += ["--upscale-seconds", "1", "--downscale-seconds", "3", "--max-running", "4"]
    found.start(*words, "--drain-seconds", "120", with_catalog=False)
    yield found
    assert found.stop() == 0


class Clients:
    """Threads that ask for long answers one after another, and what became of these."""

    def __init__(self, cluster, names):
        self.outcomes, self.begun, self._stop = [], 0, threading.Event()
        self._cluster = cluster
        self._threads = [threading.Thread(target=self._ask, args=(name,)) for name in names]
        for each in self._threads:
            each.start()

    def _ask(self, name):
        while not self._stop.is_set():
            try:
                text, error, ends = self._cluster.stream(name, self._note, **LONG)
            except httpx.HTTPError as lost:
                text, error, ends = "", str(lost), 0
            self.outcomes.append((name, text, error, ends))
            if error is not None:
                return

    def _note(self):
        self.begun += 1

    def end(self):
        self._stop.set()
        for each in self._threads:
            each.join()

    def check(self):
        """Every answer is whole, and that of its adapter."""
        assert self.outcomes
        assert [each for each in self.outcomes if each[2:] != (None, 1)] == []
        assert len({each[:2] for each in self.outcomes}) == len({each[0] for each in self.outcomes})


def test_adapters_of_a_folder_are_served_without_a_catalog(scaling):
    listed = [each["id"] for each in scaling.client.get("/v1/models").json()["data"]]
    assert listed == [listed[0], *ADAPTERS]
    assert len({scaling.text(name) for name in ADAPTERS}) > 1
    assert scaling.ask("a9").status_code == 404


def test_a_replica_comes_with_the_load_and_goes_without_cutting_an_answer_off(scaling):
    began = time.monotonic()
    crowd = Clients(scaling, ADAPTERS * 2)
    scaling.until(lambda: scaling.has_replicas(2), 900)
    print(f"\n  the second replica answers after {time.monotonic() - began:.1f} s of load")
    asked = [each["prompt_tokens"] for each in scaling.figures()]
    scaling.until(lambda: scaling.figures()[1:] and scaling.figures()[1]["prompt_tokens"] > 0)
    crowd.end()
    crowd.check()
    print(f"  {len(crowd.outcomes)} answers, all whole; prompt tokens before it: {asked}")
    # Two answers at a time are enough for one replica, and each has one: whichever goes has to end
    # its own first.
    homes = Homes()
    homes.set_members(range(2))
    apart = {homes.homes(name)[0]: name for name in ADAPTERS}
    assert set(apart) == {0, 1}
    began = time.monotonic()
    few = Clients(scaling, apart.values())
    scaling.until(lambda: scaling.has_replicas(1), 900)
    seconds, after = time.monotonic() - began, len(few.outcomes)
    scaling.until(lambda: len(few.outcomes) > after + 2)
    few.end()
    few.check()
    print(f"  one replica again after {seconds:.1f} s; {len(few.outcomes)} answers, all whole")


def test_the_command_ends_when_the_answers_that_have_begun_are_whole(scaling):
    clients = Clients(scaling, ADAPTERS[:3])
    scaling.until(lambda: clients.begun >= 3)
    begun = clients.begun
    scaling.process.terminate()
    scaling.process.wait(300)
    clients.end()
    print(f"\n  {begun} had begun, {len(clients.outcomes)} ended")
    whole = [each for each in clients.outcomes if each[2:] == (None, 1)]
    assert len(whole) >= begun
