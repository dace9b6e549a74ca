"""Which adapters are asked for most: counts that fade, in a catalog that several ingresses tell."""

import threading

import pytest

from gossamer.cluster.published.asked import HALF_LIFE
from gossamer.cluster.published.catalog import AdapterCatalog


@pytest.fixture
def clock():
    """A clock that is moved by hand."""
    return [1_700_000_000.0]


@pytest.fixture
def timed(catalog_url, clock):
    """A catalog with four names, by that clock."""
    catalog = AdapterCatalog(catalog_url, lambda: clock[0])
    for name in ("poet", "chef", "pirate", "clerk"):
        catalog.move(name, digest="a" * 64, place=name, num_bytes=1, kind="low-rank", rank=4)
    yield catalog
    catalog.close()


def test_those_asked_for_most_come_first(timed):
    timed.asked.add({"poet": 3, "chef": 5})
    timed.asked.add({"poet": 4, "pirate": 1})
    found = timed.asked.most(10)
    assert list(found) == ["poet", "chef", "pirate"]
    assert list(found.values()) == pytest.approx([7, 5, 1])
    assert list(timed.asked.most(1)) == ["poet"]


def test_counts_fade_without_being_written_again(timed, clock):
    timed.asked.add({"poet": 8})
    clock[0] += 2 * HALF_LIFE
    timed.asked.add({"chef": 3})
    assert timed.asked.most(10) == pytest.approx({"chef": 3, "poet": 2})
    timed.asked.add({"poet": 2})
    assert timed.asked.most(10) == pytest.approx({"poet": 4, "chef": 3})
    clock[0] += 400 * HALF_LIFE
    timed.asked.add({"clerk": 1})
    assert list(timed.asked.most(10)) == ["clerk", "poet", "chef"]


def test_names_that_mean_nothing_are_not_listed(timed):
    timed.asked.add({"poet": 1, "stranger": 50})
    timed.withdraw("poet")
    assert timed.asked.most(10) == {}
    timed.move("poet", digest="a" * 64, place="poet", num_bytes=1, kind="low-rank", rank=4)
    assert timed.asked.most(10) == {}, "a name that comes back begins at nothing"


def test_counting_changes_nothing_that_ingresses_look_for(timed):
    version = timed.version()
    timed.asked.add({"poet": 1})
    timed.asked.add({})
    assert timed.version() == version


def test_several_who_count_the_same_new_names_lose_nothing(timed, catalog_url, clock):
    names = [f"n{number:04}" for number in range(600)]
    for name in names[:2]:
        timed.move(name, digest="a" * 64, place=name, num_bytes=1, kind="low-rank", rank=4)

    def tell():
        own = AdapterCatalog(catalog_url, lambda: clock[0])
        for _ in range(3):
            own.asked.add(dict.fromkeys(names, 2))
        own.close()

    threads = [threading.Thread(target=tell) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert timed.asked.most(10) == pytest.approx({"n0000": 18, "n0001": 18})
