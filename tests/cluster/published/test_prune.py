"""What is removed from a store: only versions that no name has meant for long enough."""

import shutil

import pytest

from gossamer.adapters.inspect import inspect
from gossamer.cli.main import main
from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.published.prune import prune
from gossamer.cluster.published.publish import publish_adapter
from gossamer.cluster.published.store import FolderStore, RemoteStore
from gossamer.errors import StorageError

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def clock():
    """A clock that is moved by hand."""
    return [1_000_000.0]


@pytest.fixture
def timed(catalog_url, clock):
    """An empty catalog on either database, by that clock."""
    catalog = AdapterCatalog(catalog_url, lambda: clock[0])
    yield catalog
    catalog.close()


@pytest.fixture(params=["folder", "fsspec"])
def store(request, tmp_path):
    """An empty store of either kind."""
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    pytest.importorskip("fsspec")
    return RemoteStore(f"memory://{tmp_path.name}")


def _place(catalog, name):
    return catalog.find(name).place


def test_a_former_version_goes_when_its_time_is_over_and_not_before(timed, store, adapters, clock):
    publish_adapter(adapters / "poet", timed, store, "tone")
    former = _place(timed, "tone")
    clock[0] += DAY
    publish_adapter(adapters / "chef", timed, store, "tone")
    clock[0] += DAY - 1
    early = prune(timed, store, DAY, now=clock[0])
    assert (early.removed, early.kept) == ((), 1)
    assert store.holds(former)
    clock[0] += 2
    told = prune(timed, store, DAY, now=clock[0], dry_run=True)
    assert [each.place for each in told.removed] == [former]
    assert store.holds(former)
    done = prune(timed, store, DAY, now=clock[0])
    assert [each.place for each in done.removed] == [former]
    assert done.removed[0].num_bytes > 0
    assert done.kept == 0
    assert list(store.places()) == [_place(timed, "tone")]
    assert prune(timed, store, DAY, now=clock[0]).removed == ()


def test_what_a_name_means_again_stays(timed, store, adapters, clock):
    for name in ("poet", "chef", "poet"):
        publish_adapter(adapters / name, timed, store, "tone")
    clock[0] += 2 * DAY
    done = prune(timed, store, DAY, now=clock[0])
    assert len(done.removed) == 1
    assert list(store.places()) == [_place(timed, "tone")]


def test_what_was_withdrawn_goes_and_can_be_published_again(timed, store, adapters, clock):
    publish_adapter(adapters / "poet", timed, store)
    place = _place(timed, "poet")
    assert timed.withdraw("poet")
    clock[0] += 2 * DAY
    assert [each.name for each in prune(timed, store, DAY, now=clock[0]).removed] == ["poet"]
    assert not store.holds(place)
    assert publish_adapter(adapters / "poet", timed, store).copied
    assert store.holds(_place(timed, "poet"))


def test_a_version_whose_folder_someone_has_removed_is_forgotten(timed, adapters, tmp_path, clock):
    store = FolderStore(tmp_path / "store")
    for name in ("poet", "chef"):
        publish_adapter(adapters / name, timed, store)
        timed.withdraw(name)
    shutil.rmtree(tmp_path / "store" / "adapters" / "chef")
    clock[0] += 2 * DAY
    done = prune(timed, store, DAY, now=clock[0])
    assert [each.name for each in done.removed] == ["chef", "poet"]
    assert (done.kept, done.failed) == (0, ())
    assert publish_adapter(adapters / "chef", timed, store).copied


def test_a_store_that_is_not_mounted_is_not_taken_for_an_empty_one(
    timed, adapters, tmp_path, clock
):
    store = FolderStore(tmp_path / "store")
    publish_adapter(adapters / "poet", timed, store)
    timed.withdraw("poet")
    clock[0] += 2 * DAY
    (tmp_path / "store" / "adapters").rename(tmp_path / "elsewhere")
    done = prune(timed, store, DAY, now=clock[0])
    assert (done.removed, done.kept) == ((), 1)
    assert "mount the store" in str(done.failed[0][1])


def test_a_place_that_cannot_be_removed_holds_up_no_other(adapters, tmp_path, capsys, monkeypatch):
    url = f"sqlite:///{tmp_path}/catalog.db"
    old = AdapterCatalog(url, lambda: 0.0)
    store = FolderStore(tmp_path)
    for name in ("chef", "poet"):
        publish_adapter(adapters / name, old, store)
        old.withdraw(name)
    old.close()
    remove = FolderStore.remove

    def refuse(self, place):
        if "chef" in place:
            raise StorageError(f"cannot remove {place}: the disk says no")
        remove(self, place)

    with monkeypatch.context() as broken:
        broken.setattr(FolderStore, "remove", refuse)
        assert main(["cluster", "prune", "--catalog", url]) == 1
    told = capsys.readouterr()
    assert "1 removed" in told.out
    assert "1 kept for now" in told.out
    assert told.err.startswith("gossamer: error: cannot remove adapters/chef/")
    assert main(["cluster", "prune", "--catalog", url]) == 0
    assert not list((tmp_path / "adapters").glob("*/*"))


def test_what_is_being_published_stays(timed, store, adapters, clock):
    publish_adapter(adapters / "poet", timed, store)
    place = _place(timed, "poet")
    timed.withdraw("poet")
    clock[0] += 2 * DAY
    # Another process is between its look at the store and its change of the catalog.
    timed.reserve("poet", place)
    assert prune(timed, store, DAY, now=clock[0]).removed == ()
    assert store.holds(place)


def test_nothing_is_published_while_its_files_are_removed(timed, store, adapters, clock):
    publish_adapter(adapters / "poet", timed, store)
    place = _place(timed, "poet")
    timed.withdraw("poet")
    clock[0] += 2 * DAY
    # Another process removes them, and is interrupted.
    assert timed.begin_removing(place, clock[0] - DAY)
    with pytest.raises(StorageError, match="is being removed from the store"):
        publish_adapter(adapters / "poet", timed, store)
    assert timed.find("poet") is None
    assert [each.place for each in prune(timed, store, DAY, now=clock[0]).removed] == [place]
    publish_adapter(adapters / "poet", timed, store)
    assert store.holds(place)


def test_a_version_that_is_meant_again_meanwhile_is_not_removed(timed, store, adapters, clock):
    publish_adapter(adapters / "poet", timed, store)
    place = _place(timed, "poet")
    timed.withdraw("poet")
    clock[0] += 2 * DAY
    publish_adapter(adapters / "poet", timed, store)
    assert not timed.begin_removing(place, clock[0])


def test_what_the_catalog_never_heard_of_goes_only_when_that_is_asked_for(
    timed, store, adapters, clock
):
    publish_adapter(adapters / "poet", timed, store)
    stray = f"adapters/stray/{'0' * 64}"
    store.put(adapters / "chef", stray, inspect(adapters / "chef").digest)
    clock[0] += 2 * DAY
    assert prune(timed, store, DAY, now=clock[0]).kept == 0
    noted = prune(timed, store, DAY, now=clock[0], unnamed=True)
    assert (noted.removed, noted.noted, noted.kept) == ((), 1, 1)
    clock[0] += 2 * DAY
    again = prune(timed, store, DAY, now=clock[0], unnamed=True)
    assert [each.place for each in again.removed] == [stray]
    assert list(store.places()) == [_place(timed, "poet")]


def test_folders_that_are_no_versions_are_let_be(timed, adapters, tmp_path, clock):
    store = FolderStore(tmp_path / "store")
    publish_adapter(adapters / "poet", timed, store)
    own = tmp_path / "store" / "adapters" / "poet" / "notes"
    own.mkdir()
    clock[0] += 2 * DAY
    assert prune(timed, store, DAY, now=clock[0], unnamed=True).noted == 0
    assert own.is_dir()


def test_the_command_removes_nothing_young_and_says_what_it_keeps(adapters, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/catalog.db"
    for name in ("poet", "chef"):
        words = ["cluster", "publish", str(adapters / name), "--catalog", url, "--name", "tone"]
        assert main(words) == 0
    capsys.readouterr()
    assert main(["cluster", "prune", "--catalog", url]) == 0
    assert capsys.readouterr().out == "0 removed (0 B), 1 kept for now\n"
    old = AdapterCatalog(url, lambda: 0.0)
    former = old.former(float("inf"))[0]
    old.reserve("tone", former.place)
    old.close()
    assert main(["cluster", "prune", "--catalog", url, "--dry-run"]) == 0
    assert "1 would be removed" in capsys.readouterr().out
    assert (tmp_path / former.place).is_dir()
    assert main(["cluster", "prune", "--catalog", url]) == 0
    assert former.place in capsys.readouterr().out
    assert not (tmp_path / former.place).exists()


@pytest.mark.parametrize("hours", ["0", "0.5", "nan", "inf"])
def test_a_time_within_which_requests_may_need_them_is_refused(hours, tmp_path, capsys):
    words = ["cluster", "prune", "--catalog", f"sqlite:///{tmp_path}/catalog.db"]
    assert main([*words, "--keep-hours", hours]) == 2
    assert f"--keep-hours {hours}: must be at least 1" in capsys.readouterr().err
