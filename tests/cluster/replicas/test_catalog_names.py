"""What names mean for an ingress: remembered until the catalog changes."""

import threading

import pytest

from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.replicas.names import CatalogNames
from gossamer.errors import (
    AdapterReadError,
    RequestError,
    StorageError,
    UnknownModelError,
    UnsupportedAdapterError,
)


class CountingCatalog(AdapterCatalog):
    """Counts the questions."""

    finds = versions = 0

    def find(self, name):
        self.finds += 1
        return super().find(name)

    def version(self):
        self.versions += 1
        return super().version()


@pytest.fixture
def catalog(tmp_path):
    """An empty catalog."""
    catalog = CountingCatalog(f"sqlite:///{tmp_path}/catalog.db")
    yield catalog
    catalog.close()


@pytest.fixture
def clock():
    """A clock that is moved by hand."""
    return [0.0]


@pytest.fixture
def names(catalog, clock):
    """The names of the catalog, beside the base model's."""
    return CatalogNames(catalog, "base", lambda: clock[0])


def publish(catalog, name, digest="a", kind="low-rank"):
    catalog.move(name, digest=digest * 64, place="p", num_bytes=7, kind=kind, rank=4)


def test_names_near_an_unknown_one_are_found_and_the_known_parts_of_a_mixture(names, catalog):
    for number in range(1200):
        publish(catalog, f"n{number:04}")
    near = [each.name for each in names.statuses_near("n1100+n0x")]
    assert "n1100" in near, "beyond the names that are alike, it is one of them"
    assert len(near) < 1200
    assert CatalogNames(None, "base").statuses_near("n1100") == []


def test_the_database_is_asked_once_while_nothing_changes(names, catalog, clock):
    publish(catalog, "poet")
    for _ in range(50):
        clock[0] += 0.1
        assert names.find("poet").digest == "a" * 64
        assert names.find("nothing") is None
    assert catalog.finds == 2
    assert catalog.versions <= 6


def test_a_change_is_seen_within_a_second(names, catalog, clock):
    publish(catalog, "poet")
    assert names.find("poet").digest[0] == "a"
    assert names.find("chef") is None
    publish(catalog, "poet", "b")
    publish(catalog, "chef", "c")
    clock[0] += 1.01
    assert names.find("poet").digest[0] == "b"
    assert names.find("chef").digest[0] == "c"
    catalog.withdraw("poet")
    clock[0] += 1.01
    assert names.find("poet") is None


def test_while_the_catalog_is_away_names_mean_what_they_meant(names, catalog, clock, monkeypatch):
    publish(catalog, "poet")
    assert names.find("poet").digest[0] == "a"

    def fail(*arguments):
        raise StorageError("the catalog cannot be used: postgresql://me:secret@host")

    with monkeypatch.context() as away:
        for name in ("version", "find", "page", "names_like"):
            away.setattr(catalog, name, fail)
        clock[0] += 5
        assert names.find("poet").digest[0] == "a"
        for ask in (lambda: names.look_up("chef"), names.statuses):
            with pytest.raises(AdapterReadError, match="try again") as caught:
                ask()
            assert "secret" not in str(caught.value)
    publish(catalog, "poet", "b")
    clock[0] += 1.01
    assert names.find("poet").digest[0] == "b"


def test_a_catalog_that_answers_late_with_an_error_is_not_asked_by_the_next_request(
    names, catalog, clock, monkeypatch
):
    publish(catalog, "poet")
    names.find("poet")
    asked = []

    def hang(*arguments):
        asked.append(clock[0])
        clock[0] += 5
        raise StorageError("the catalog cannot be used: timeout expired")

    monkeypatch.setattr(catalog, "version", hang)
    monkeypatch.setattr(catalog, "find", hang)
    clock[0] += 2
    for _ in range(20):
        assert names.find("poet").digest[0] == "a"
        with pytest.raises(AdapterReadError, match="try again"):
            names.find("chef")
    assert len(asked) == 1


def test_one_asks_for_changes_while_others_use_what_is_known(names, catalog, clock, monkeypatch):
    publish(catalog, "poet")
    names.find("poet")
    has_come, released = threading.Event(), threading.Event()

    def wait():
        has_come.set()
        released.wait(30)
        return 1

    monkeypatch.setattr(catalog, "version", wait)
    clock[0] += 2
    asker = threading.Thread(target=names.find, args=("poet",))
    asker.start()
    assert has_come.wait(30)
    others = [threading.Thread(target=names.find, args=("poet",)) for _ in range(16)]
    for other in others:
        other.start()
    for other in others:
        other.join(30)
    assert not any(other.is_alive() for other in others)
    released.set()
    asker.join(30)


def test_what_is_found_knows_its_digest_and_its_place(names, catalog):
    publish(catalog, "poet")
    entry = names.look_up("poet")
    assert (entry.digest, entry.path.as_posix(), entry.kind) == ("a" * 64, "p", "low-rank")


def test_mixtures_are_judged_as_an_engine_would(names, catalog):
    publish(catalog, "poet")
    publish(catalog, "editor", "b", kind="intervention")
    assert [part.name for part in names.look_up("poet:0.5").parts] == ["poet"]
    with pytest.raises(UnsupportedAdapterError, match="no weighted sum"):
        names.look_up("poet+editor")
    with pytest.raises(RequestError, match="named twice"):
        names.look_up("poet+poet")


def test_an_unknown_name_is_told_with_near_ones(names, catalog):
    publish(catalog, "poet")
    with pytest.raises(UnknownModelError, match="did you mean 'poet'"):
        names.look_up("poets")


@pytest.mark.parametrize("name", ["base", "../x", "", "a:b:c"])
def test_what_can_be_no_adapter_is_not_asked_for(names, catalog, name):
    assert names.find(name) is None
    assert catalog.finds == 0


def test_all_are_listed_page_by_page(names, catalog, monkeypatch):
    monkeypatch.setattr("gossamer.cluster.replicas.names.PAGE", 3)
    for number in range(8):
        publish(catalog, f"a{number}")
    assert [each.name for each in names.statuses()] == [f"a{number}" for number in range(8)]


def test_without_a_catalog_there_is_the_base_alone():
    names = CatalogNames(None, "base")
    assert names.statuses() == []
    assert names.count() == 0
    with pytest.raises(UnknownModelError, match="known: base"):
        names.look_up("poet")
