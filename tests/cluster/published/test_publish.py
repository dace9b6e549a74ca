"""`gossamer cluster publish`: the files first, then the name."""

import json
import shutil

import pytest

from gossamer.adapters.inspect import inspect
from gossamer.adapters.layout import WEIGHTS_FILE
from gossamer.cli.main import main
from gossamer.cluster.published.catalog import AdapterCatalog
from gossamer.cluster.published.publish import publish_adapter
from gossamer.cluster.published.store import FolderStore, RemoteStore
from gossamer.errors import StorageError


@pytest.fixture
def url(tmp_path):
    """A catalog beside which adapters are kept."""
    return f"sqlite:///{tmp_path}/catalog.db"


def _published(url, name):
    catalog = AdapterCatalog(url)
    found = catalog.find(name)
    catalog.close()
    return found


def test_a_run_is_published_under_its_name(adapters, url, tmp_path, capsys):
    assert main(["cluster", "publish", str(adapters / "poet"), "--catalog", url]) == 0
    digest = inspect(adapters / "poet").digest
    assert f"poet: {digest[:12]} (low-rank, " in capsys.readouterr().out
    found = _published(url, "poet")
    assert (found.digest, found.place) == (digest, f"adapters/poet/{digest}")
    folder = tmp_path / found.place
    assert inspect(folder).digest == digest
    assert found.num_bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_publishing_again_moves_the_name_and_keeps_the_former_files(
    adapters, url, tmp_path, capsys
):
    command = ["cluster", "publish", "--catalog", url, "--name", "tone"]
    assert main([*command, str(adapters / "poet")]) == 0
    former = _published(url, "tone")
    assert main([*command, str(adapters / "chef")]) == 0
    assert f"before: {former.digest[:12]}" in capsys.readouterr().out
    now = _published(url, "tone")
    assert now.digest == inspect(adapters / "chef").digest
    assert (tmp_path / former.place).is_dir(), "requests that run may still need them"
    assert main([*command, str(adapters / "chef")]) == 0
    assert "as before" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["folder", "fsspec"])
def test_what_is_damaged_in_the_store_is_mended_by_publishing_again(adapters, url, tmp_path, place):
    if place == "fsspec":
        pytest.importorskip("fsspec")
    path = tmp_path / "store"
    path.mkdir()
    store = FolderStore(path) if place == "folder" else RemoteStore(f"local://{path}")
    catalog = AdapterCatalog(url)
    done = publish_adapter(adapters / "poet", catalog, store)
    assert done.copied
    assert not publish_adapter(adapters / "poet", catalog, store).copied
    weights = path / done.place / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert publish_adapter(adapters / "poet", catalog, store).copied
    assert weights.read_bytes() == whole
    weights.write_bytes(whole[:100])
    assert publish_adapter(adapters / "poet", catalog, store).copied
    assert weights.read_bytes() == whole
    catalog.close()


def test_what_was_not_copied_as_it_was_read_is_not_published(adapters, url, tmp_path):
    store, place = FolderStore(tmp_path / "store"), "adapters/poet/x"
    digest = inspect(adapters / "poet").digest
    store.put(adapters / "poet", place, digest)
    with pytest.raises(StorageError, match="was not copied as it was read"):
        store.put(adapters / "chef", place, digest)
    assert inspect(tmp_path / "store" / place).digest == digest, "what was there stays"


def test_what_is_no_adapter_is_not_published(url, tmp_path, adapters, capsys):
    assert main(["cluster", "publish", str(tmp_path), "--catalog", url]) == 1
    assert "error:" in capsys.readouterr().err
    odd = tmp_path / "odd"
    shutil.copytree(adapters / "poet", odd)
    config = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "VERA"}))
    assert main(["cluster", "publish", str(odd), "--catalog", url]) == 1
    assert "not served" in capsys.readouterr().err
    assert _published(url, "odd") is None


def test_a_name_that_cannot_be_is_refused_before_anything_is_copied(
    adapters, url, tmp_path, capsys
):
    words = ["cluster", "publish", str(adapters / "poet"), "--catalog", url, "--name", "a/b"]
    assert main(words) == 1
    assert "cannot be an adapter's name" in capsys.readouterr().err
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize("words", [["publish", "run"], ["withdraw", "poet"], ["prune"]])
def test_without_its_package_one_line_says_what_to_install(words, url, capsys, monkeypatch):
    monkeypatch.setattr("gossamer.extras._is_there", lambda name: name != "sqlalchemy")
    assert main(["cluster", *words, "--catalog", url]) == 2
    assert capsys.readouterr().err == (
        f"gossamer: error: cluster {words[0]} needs sqlalchemy; "
        "in the clone of Gossamer: pip install -e '.[catalog]'\n"
    )


def test_the_place_of_a_postgresql_catalogs_adapters_must_be_given(adapters, capsys):
    words = ["cluster", "publish", str(adapters / "poet"), "--catalog", "postgresql://me@host/x"]
    assert main(words) == 2
    assert "--store PLACE is required" in capsys.readouterr().err


def test_a_name_that_is_withdrawn_means_nothing(adapters, url, tmp_path, capsys):
    assert main(["cluster", "publish", str(adapters / "poet"), "--catalog", url]) == 0
    place = _published(url, "poet").place
    assert main(["cluster", "withdraw", "poem", "--catalog", url]) == 2
    assert "unknown adapter 'poem'; did you mean 'poet'?" in capsys.readouterr().err
    assert main(["cluster", "withdraw", "poet", "--catalog", url]) == 0
    assert "poet: withdrawn" in capsys.readouterr().out
    assert _published(url, "poet") is None
    assert (tmp_path / place).is_dir(), "requests that run may still need the files"
