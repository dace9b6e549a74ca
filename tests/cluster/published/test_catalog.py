"""Names and what they mean: one transaction each, on SQLite and on PostgreSQL."""

import threading

import pytest

from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.published.database import default_store
from gossamer.errors import RequestError, SettingError, StorageError


def _move(catalog, name, digest="a" * 64):
    return catalog.move(
        name,
        digest=digest,
        place=f"adapters/{name}/{digest}",
        num_bytes=10,
        kind="low-rank",
        rank=8,
    )


def test_a_name_means_what_it_was_moved_to_last(catalog):
    assert catalog.find("poet") is None
    assert _move(catalog, "poet") is None
    first = catalog.find("poet")
    assert (first.digest, first.kind, first.rank, first.num_bytes) == ("a" * 64, "low-rank", 8, 10)
    assert _move(catalog, "poet", "b" * 64) == first
    second = catalog.find("poet")
    assert second.digest == "b" * 64
    assert second.version > first.version
    assert catalog.count() == 1


def test_the_version_tells_of_every_change(catalog):
    seen = [catalog.version()]
    _move(catalog, "poet")
    seen.append(catalog.version())
    _move(catalog, "chef")
    seen.append(catalog.version())
    assert catalog.withdraw("poet")
    seen.append(catalog.version())
    assert seen == sorted(set(seen))
    assert not catalog.withdraw("poet")
    assert catalog.find("poet") is None


def test_pages_list_all_names_in_order(catalog):
    for number in range(25):
        _move(catalog, f"adapter-{number:02}")
    pages, after = [], ""
    while page := catalog.page(after, 10):
        pages.append([each.name for each in page])
        after = page[-1].name
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [name for page in pages for name in page] == [
        f"adapter-{number:02}" for number in range(25)
    ]


def test_names_like_an_unknown_one_are_found(catalog):
    for name in ("poet", "pirate", "chef", "p%"):
        _move(catalog, name)
    assert catalog.names_like("poem") == ["poet"]
    assert catalog.names_like("p%x") == ["p%"], "signs of patterns are letters like others"
    assert sorted(catalog.names_like("zebra")) == ["chef", "p%", "pirate", "poet"]


def test_changes_of_many_at_once_all_count(catalog_url, catalog):
    def publish(number):
        own = AdapterCatalog(catalog_url)
        for each in range(10):
            _move(own, f"shared-{each}", str(number) * 64)
        own.close()

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert catalog.version() == 40
    versions = [each.version for each in catalog.page()]
    assert len(set(versions)) == len(versions) == 10


@pytest.mark.parametrize("name", ["a/b", "", "a+b", "a:0.5", "x" * 201, "..", "tab\t"])
def test_what_cannot_be_a_name_is_refused(tmp_path, name):
    catalog = AdapterCatalog(f"sqlite:///{tmp_path}/catalog.db")
    with pytest.raises(RequestError, match="cannot be an adapter's name"):
        _move(catalog, name)
    assert catalog.count() == 0
    catalog.close()


def test_the_name_of_a_tuned_model_is_a_name(tmp_path):
    catalog = AdapterCatalog(f"sqlite:///{tmp_path}/catalog.db")
    _move(catalog, "ft:base:acme:tone:Abcdefgh")
    assert catalog.find("ft:base:acme:tone:Abcdefgh") is not None
    catalog.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("catalog.db", "is no URL"),
        ("sqlite://", "name a file"),
        ("mysql://me:secret@host/x", "only sqlite and postgresql"),
        ("sqlite:////no/such/folder/catalog.db", "does not exist"),
    ],
)
def test_a_url_of_another_kind_is_refused(url, message):
    with pytest.raises(SettingError, match=message) as caught:
        AdapterCatalog(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "catalog.db").write_text("This is a text, no database. " * 100)
    with pytest.raises(StorageError, match="the catalog cannot be used"):
        AdapterCatalog(f"sqlite:///{tmp_path}/catalog.db")


def test_adapters_lie_beside_a_sqlite_catalog_unless_told_otherwise(tmp_path):
    assert default_store(f"sqlite:///{tmp_path}/catalog.db") == tmp_path
    assert default_store("postgresql://me@host/name") is None
