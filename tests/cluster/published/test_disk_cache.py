"""A cache of a shared store: whole, verified, bounded, and safe for many at once."""

import os
import shutil
import threading
import time

import pytest

from gossamer.adapters.inspect import inspect
from gossamer.cluster.published import store as store_module
from gossamer.cluster.published.store import DiskCache, FolderStore, checked_place, open_store
from gossamer.errors import AdapterFormatError, AdapterReadError, SettingError


class CountingStore(FolderStore):
    """Counts what is fetched, slowly."""

    def __init__(self, root, seconds=0.0):
        super().__init__(root)
        self.fetched, self.seconds = [], seconds

    def fetch(self, place, into):
        time.sleep(self.seconds)
        self.fetched.append(place)
        super().fetch(place, into)


@pytest.fixture
def shared(adapters, tmp_path):
    """A store that holds three adapters, and their digests by name."""
    store = CountingStore(tmp_path / "store")
    digests = {}
    for name in ("poet", "pirate", "chef"):
        digests[name] = inspect(adapters / name).digest
        store.put(adapters / name, f"adapters/{name}/{digests[name]}", digests[name])
    return store, digests


def _place(name, digests):
    return digests[name], f"adapters/{name}/{digests[name]}"


def _size(adapters, name):
    folder = adapters / name
    return sum((folder / file).stat().st_size for file in store_module.FILES)


def test_an_adapter_is_fetched_once_and_found_under_its_digest(shared, tmp_path):
    store, digests = shared
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    for _ in range(3):
        path = cache.acquire(*_place("poet", digests))
        assert path == tmp_path / "cache" / digests["poet"]
        assert inspect(path).digest == digests["poet"]
        cache.release(digests["poet"])
    assert len(store.fetched) == 1
    assert (cache.stats().hits, cache.stats().fetches) == (2, 1)
    again = DiskCache(tmp_path / "cache", store, 10**9)
    again.acquire(*_place("poet", digests))
    assert len(store.fetched) == 1, "what a former process fetched is still there"


def test_many_who_wait_for_one_adapter_share_its_fetch(shared, tmp_path):
    store, digests = shared
    store.seconds = 0.1
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(cache.acquire(*_place("poet", digests))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(store.fetched) == 1


def test_two_caches_in_one_folder_do_not_disturb_each_other(shared, tmp_path):
    store, digests = shared
    caches = [DiskCache(tmp_path / "cache", store, 10**9) for _ in range(2)]
    threads = [
        threading.Thread(target=cache.acquire, args=_place(name, digests))
        for cache in caches
        for name in digests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(os.listdir(tmp_path / "cache")) == sorted(digests.values())


def test_the_one_unused_for_longest_makes_room(shared, adapters, tmp_path):
    store, digests = shared
    cache = DiskCache(tmp_path / "cache", store, 2 * _size(adapters, "poet") + 1)
    for name, age in (("poet", 500), ("pirate", 1000)):
        path = cache.acquire(*_place(name, digests))
        cache.release(digests[name])
        old = time.time() - age
        os.utime(path, (old, old))
    cache.acquire(*_place("chef", digests))
    assert set(os.listdir(tmp_path / "cache")) == {digests["poet"], digests["chef"]}
    assert cache.stats().evictions == 1


def test_what_another_process_has_fetched_counts_too(shared, adapters, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "LOOK_SECONDS", -1.0)
    store, digests = shared
    one, other = (DiskCache(tmp_path / "cache", store, 1) for _ in range(2))
    path = one.acquire(*_place("poet", digests))
    one.release(digests["poet"])
    os.utime(path, (0, 0))
    other.acquire(*_place("chef", digests))
    assert os.listdir(tmp_path / "cache") == [digests["chef"]]


def test_what_is_held_or_was_just_used_stays(shared, adapters, tmp_path):
    store, digests = shared
    cache = DiskCache(tmp_path / "cache", store, 1)
    held = cache.acquire(*_place("poet", digests))
    os.utime(held, (0, 0))
    cache.acquire(*_place("pirate", digests))
    cache.release(digests["pirate"])
    cache.acquire(*_place("chef", digests))
    assert set(os.listdir(tmp_path / "cache")) == set(digests.values())
    cache.release(digests["poet"])
    cache.acquire(*_place("chef", digests))
    assert digests["poet"] not in os.listdir(tmp_path / "cache")


def test_content_that_is_not_what_the_catalog_says_is_refused(shared, tmp_path):
    store, digests = shared
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    with pytest.raises(AdapterFormatError, match="publish the adapter again"):
        cache.acquire(digests["poet"], f"adapters/pirate/{digests['pirate']}")
    assert os.listdir(tmp_path / "cache") == []


def test_a_cut_file_is_refused_and_leaves_nothing(shared, tmp_path):
    store, digests = shared
    weights = tmp_path / "store" / _place("poet", digests)[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    with pytest.raises(AdapterFormatError) as caught:
        cache.acquire(*_place("poet", digests))
    assert str(tmp_path / "cache") not in str(caught.value)
    assert os.listdir(tmp_path / "cache") == []


def test_a_store_that_is_away_is_to_be_tried_again(shared, tmp_path):
    store, digests = shared
    shutil.rmtree(tmp_path / "store")
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    with pytest.raises(AdapterReadError, match="try again"):
        cache.acquire(*_place("poet", digests))
    with pytest.raises(AdapterReadError):
        cache.acquire(*_place("poet", digests))


def test_leftovers_of_a_killed_process_are_no_adapters_and_go_when_they_are_old(shared, tmp_path):
    store, digests = shared
    (tmp_path / "cache" / ".fetch-killed" / digests["poet"]).mkdir(parents=True)
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    assert (tmp_path / "cache" / ".fetch-killed").exists()
    cache.acquire(*_place("poet", digests))
    os.utime(tmp_path / "cache" / ".fetch-killed", (0, 0))
    DiskCache(tmp_path / "cache", store, 10**9)
    assert os.listdir(tmp_path / "cache") == [digests["poet"]]


@pytest.mark.parametrize("place", ["../secrets", "/etc", "", "a/../../b"])
def test_places_outside_the_store_are_refused(place):
    with pytest.raises(AdapterFormatError, match="no place in the store"):
        checked_place(place)


def test_a_digest_that_is_a_path_is_refused(shared, tmp_path):
    store, _ = shared
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    with pytest.raises(AdapterFormatError, match="no digest"):
        cache.acquire("../../somewhere", "adapters/poet/x")


def test_a_store_behind_a_url_is_read_through_fsspec(adapters, tmp_path):
    digest = inspect(adapters / "poet").digest
    store = open_store("memory://bucket/shared")
    place = f"adapters/poet/{digest}"
    assert not store.holds(place)
    store.put(adapters / "poet", place, digest)
    assert store.holds(place)
    cache = DiskCache(tmp_path / "cache", store, 10**9)
    assert inspect(cache.acquire(digest, place)).digest == digest
    with pytest.raises(AdapterReadError, match="try again"):
        cache.acquire("0" * 64, "adapters/none/0")


def test_a_store_that_cannot_be_is_one_sentence(tmp_path):
    with pytest.raises(SettingError, match="does not exist"):
        open_store(str(tmp_path / "none"))
    with pytest.raises(SettingError, match="--store nosuch://bucket"):
        open_store("nosuch://bucket")


def test_what_another_process_holds_for_long_stays_while_that_one_says_so(
    shared, adapters, tmp_path, monkeypatch
):
    monkeypatch.setattr(store_module, "LOOK_SECONDS", -1.0)
    store, digests = shared
    one, other = (DiskCache(tmp_path / "cache", store, 1) for _ in range(2))
    path = one.acquire(*_place("poet", digests))
    os.utime(path, (0, 0))
    one.keep_held()
    other.acquire(*_place("chef", digests))
    other.release(digests["chef"])
    assert path.is_dir()
    one.release(digests["poet"])
    os.utime(path, (0, 0))
    one.keep_held()
    other.acquire(*_place("chef", digests))
    assert not path.exists()
