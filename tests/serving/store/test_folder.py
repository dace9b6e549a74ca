"""Which adapters a folder holds: names, what they reach, and noticing new files."""

import os

import pytest
from policy_fakes import FakeFolder, FakeLoader, Stores

from gossamer.errors import (
    UnknownModelError,
)
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.store.folder import AdapterFolder

from tiny import make_lora


def touch_adapter(folder, text="{}"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(text)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "",
        "/",
        "/etc",
        "a/b",
        "a/",
        "./a",
        "a\x00",
        "a\x00b",
        "x" * 5000,
        "\ud800",
        "~",
        "a\n",
        "b",
    ],
)
def test_names_reach_nothing_outside_the_folder(tmp_path, name):
    touch_adapter(tmp_path / "x")
    touch_adapter(tmp_path / "root" / "a")
    touch_adapter(tmp_path / "root" / "a" / "b")
    folder = AdapterFolder(tmp_path / "root")
    with pytest.raises(UnknownModelError):
        folder.look_up(name)
    assert folder.look_up("a").path == tmp_path / "root" / "a"


def test_an_absolute_name_reaches_nothing(tmp_path):
    touch_adapter(tmp_path / "a")
    with pytest.raises(UnknownModelError):
        AdapterFolder(tmp_path).look_up(str(tmp_path / "a"))


def test_names_are_those_of_sub_folders_with_an_adapter(tmp_path):
    touch_adapter(tmp_path / "b")
    touch_adapter(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    folder = AdapterFolder(tmp_path)
    assert folder.names() == ["a", "b"]
    touch_adapter(tmp_path / "c")
    assert folder.names() == ["a", "b", "c"]


def test_a_folder_that_is_itself_an_adapter(tmp_path):
    touch_adapter(tmp_path / "pirate")
    folder = AdapterFolder(tmp_path / "pirate")
    assert folder.names() == ["pirate"]
    assert folder.look_up("pirate").path == tmp_path / "pirate"
    with pytest.raises(UnknownModelError):
        folder.look_up("other")


def test_no_folder_or_one_that_has_gone(tmp_path):
    for folder in (AdapterFolder(None), AdapterFolder(tmp_path / "gone")):
        assert folder.names() == []
        with pytest.raises(UnknownModelError, match="unknown model 'a'"):
            folder.look_up("a")


def test_an_unknown_name_is_told_the_nearest(tmp_path):
    touch_adapter(tmp_path / "pirate")
    with pytest.raises(UnknownModelError, match="did you mean 'pirate'"):
        AdapterFolder(tmp_path).look_up("pirat")


def test_changed_files_change_the_signature(tmp_path):
    folder = AdapterFolder(tmp_path)
    path = touch_adapter(tmp_path / "a")
    before = folder.look_up("a").signature
    assert folder.look_up("a").signature == before
    weights = path / "adapter_model.safetensors"
    copy = path / "new"
    copy.write_bytes(weights.read_bytes())
    os.replace(copy, weights)
    replaced = folder.look_up("a").signature
    assert replaced != before
    touch_adapter(path, '{"r": 1}')
    assert folder.look_up("a").signature != replaced


def test_created_is_the_time_of_the_weights(tmp_path, tiny_model):
    folder = make_lora(tmp_path / "adapters" / "a", tiny_model, rank=1)
    os.utime(folder / "adapter_model.safetensors", (1_000_000, 1_234_567))
    os.utime(folder / "adapter_config.json", (1_000_000, 2_000_000))
    store = Stores(
        AdapterFolder(tmp_path / "adapters"), BlockPool(1), FakeLoader(FakeFolder({})), lambda: None
    ).adapters
    (status,) = store.statuses()
    store.close()
    assert status.created == 1_234_567
