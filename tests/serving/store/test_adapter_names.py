"""What a name means while folders come, change and go, and names are given and taken away."""

import errno
import logging
import os
import threading

import pytest
from policy_fakes import FakeFolder

from gossamer.errors import AdapterReadError, UnknownModelError
from gossamer.serving.store import folder as adapter_folder
from gossamer.serving.store import names as adapter_names
from gossamer.serving.store.folder import AdapterFolder, signature
from gossamer.serving.store.looks import AdapterLooks
from gossamer.serving.store.names import AdapterNames


def adapter(folder, config="{}", weights=b"weights"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


# New files under an old name.


def keep_times(folder):
    for file in folder.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return folder


def overwrite_keeping_size_and_time(root):
    weights = root / "x" / "adapter_model.safetensors"
    with weights.open("r+b") as file:
        file.write(b"WEIGHTS")
    keep_times(root / "x")


def change_the_config_only(root):
    (root / "x" / "adapter_config.json").write_text("[]")
    keep_times(root / "x")


def replace_the_directory(root):
    other = keep_times(adapter(root / "other", weights=b"WEIGHTS"))
    (root / "x").rename(root / "former")
    other.rename(root / "x")


def switch_a_link(root):
    keep_times(adapter(root / "other", weights=b"WEIGHTS"))
    (root / "x").rename(root / "former")
    (root / "x").symlink_to("other")


def put_another_link_to_the_weights(root):
    other = root / "new"
    other.write_bytes(b"WEIGHTS")
    os.utime(other, (1_700_000_000, 1_700_000_000))
    weights = root / "x" / "adapter_model.safetensors"
    weights.unlink()
    os.link(other, weights)


@pytest.mark.parametrize(
    "change",
    [
        overwrite_keeping_size_and_time,
        change_the_config_only,
        replace_the_directory,
        switch_a_link,
        put_another_link_to_the_weights,
    ],
)
def test_new_files_of_the_same_size_and_time_are_a_new_version(tmp_path, change):
    keep_times(adapter(tmp_path / "x"))
    names = AdapterNames(AdapterFolder(tmp_path))
    before = names.look_up_one("x")
    assert names.look_up_one("x") is before
    change(tmp_path)
    after = names.look_up_one("x")
    assert after is not before
    assert not names.is_current(before)
    assert names.look_up_one("x") is after


def test_an_adapter_that_moves_to_another_root_is_read_from_there(tmp_path):
    adapter(tmp_path / "one" / "x")
    (tmp_path / "two").mkdir()
    names = AdapterNames(AdapterFolder(tmp_path / "one", tmp_path / "two"))
    before = names.look_up_one("x")
    (tmp_path / "one" / "x").rename(tmp_path / "two" / "x")
    after = names.look_up_one("x")
    assert (after.path, after.signature) == (tmp_path / "two" / "x", before.signature)


# Names that cannot be served.


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9", b"a\nb", b"\x1b[31m", b"a+b", b"a:1", b" a", b"a ", b"a\\b", b"x" * 201, b"\x7f"],
    ids=ascii,
)
def test_folders_whose_names_nobody_could_ask_for_are_passed_over_and_told_once(
    tmp_path, name, caplog
):
    adapter(tmp_path / "good")
    adapter(tmp_path / os.fsdecode(name))
    folder = AdapterFolder(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert folder.names() == folder.names() == ["good"]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].isascii()
    assert caplog.messages[0].isprintable()
    for asked in (os.fsdecode(name), "unknown"):
        with pytest.raises(UnknownModelError) as caught:
            folder.look_up(asked)
        assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["grün", "模型", "a b", "x" * 200, "a.b-c_d@e", ".hidden"])
def test_names_that_people_use_are_served(tmp_path, name):
    adapter(tmp_path / name)
    folder = AdapterFolder(tmp_path)
    assert folder.names() == [name]
    assert folder.look_up(name).path == tmp_path / name


# A disk that fails.


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_failing_disk_is_not_a_missing_adapter_and_what_is_known_stays(
    tmp_path, monkeypatch, code
):
    adapter(tmp_path / "x")
    names = AdapterNames(AdapterFolder(tmp_path))
    before = names.look_up_one("x")

    class FailingOs:
        fspath = staticmethod(os.fspath)
        path = os.path

        @staticmethod
        def stat(path):
            raise OSError(code, os.strerror(code))

        @staticmethod
        def scandir(path):
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(adapter_folder, "os", FailingOs)
        for call in (
            lambda: names.look_up("x"),
            lambda: names.look_up("nobody"),
            lambda: signature(tmp_path / "x"),
        ):
            with pytest.raises(AdapterReadError, match="try again"):
                call()
    with monkeypatch.context() as patch:
        patch.setattr(adapter_folder.os, "scandir", FailingOs.scandir)
        with pytest.raises(AdapterReadError):
            names.all()
    assert names.look_up_one("x") is before


def test_a_disk_that_hangs_is_waited_for_elsewhere_and_told_in_time(monkeypatch):
    monkeypatch.setattr("gossamer.serving.store.looks.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("gossamer.serving.store.looks.LIST_SECONDS", 0.1)
    gate = threading.Event()
    looks = AdapterLooks(lambda name: gate.wait() and name)
    try:
        with pytest.raises(AdapterReadError, match="does not answer"):
            looks.look_up("x").result(30)
        with pytest.raises(AdapterReadError, match="does not answer"):
            looks.listing(gate.wait)
    finally:
        gate.set()
    assert looks.look_up("x").result(30) == "x"
    assert looks.listing(lambda: ["x"]) == ["x"]


# Names that go.


def test_entries_of_folders_that_have_gone_are_forgotten(tmp_path):
    adapter(tmp_path / "a")
    adapter(tmp_path / "b")
    names = AdapterNames(AdapterFolder(tmp_path))
    a, b = names.look_up_one("a"), names.look_up_one("b")
    b.requests = 1
    for name in "ab":
        (tmp_path / name / "adapter_config.json").unlink()
    with pytest.raises(UnknownModelError):
        names.look_up_one("a")
    assert names.known() == [b]
    assert names.all() == []
    assert names.known() == [b], "a request still has it"
    b.requests = 0
    assert names.all() == []
    assert names.known() == []
    assert not names.is_current(a)


def test_names_that_come_and_go_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(adapter_names, "MIN_LOOK", 8)
    folder = FakeFolder({"stays": 1})
    names = AdapterNames(folder)
    stays = names.look_up_one("stays")
    for number in range(1000):
        folder.sizes[f"n{number}"] = folder.versions[f"n{number}"] = 1
        names.look_up_one(f"n{number}")
        del folder.sizes[f"n{number}"]
    assert len(names.known()) <= 16
    assert names.look_up_one("stays") is stays


def test_a_name_that_is_taken_away_while_it_is_looked_up_stays_away():
    folder = FakeFolder({"a": 1})
    names = AdapterNames(folder)
    look_up = folder.look_up

    def slow(name):
        entry = look_up(name)
        folder.look_up = look_up
        names.take("a")
        return entry

    folder.look_up = slow
    with pytest.raises(UnknownModelError):
        names.look_up_one("a")
    assert names.known() == []


def test_a_name_that_is_given_while_it_is_looked_up_means_what_was_given(tmp_path):
    adapter(tmp_path / "root" / "a")
    folder = AdapterFolder(tmp_path / "root")
    names = AdapterNames(folder)
    look_up, given = folder.look_up, adapter(tmp_path / "shelf")

    def slow(name):
        entry = look_up(name)
        folder.look_up = look_up
        names.give("a", given)
        return entry

    folder.look_up = slow
    assert names.look_up_one("a").path == given


def test_many_unknown_names_have_the_folders_looked_at_once(tmp_path, monkeypatch):
    folder = AdapterFolder(tmp_path)
    looks = []
    original = folder.names
    monkeypatch.setattr(folder, "names", lambda: looks.append(1) or original())
    for number in range(50):
        with pytest.raises(UnknownModelError):
            folder.look_up(f"nobody-{number}")
    assert len(looks) == 1


def test_a_folder_with_the_base_models_name_is_passed_over(tmp_path, caplog):
    for name in ("tiny", "poet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    folder = AdapterFolder(tmp_path, base="tiny")
    assert folder.names() == folder.names() == ["poet"]
    assert caplog.text.count("that is the base model's") == 1
    assert folder.path("tiny") is None
    with pytest.raises(UnknownModelError, match="known: poet, tiny"):
        folder.look_up("gpt-4o")


def test_a_disk_that_finds_other_spellings_opens_no_other_names(tmp_path, monkeypatch):
    """An access list knows the folder by the name that it has."""
    root = tmp_path / "shelf"
    for name in ("private", "other"):
        (root / name).mkdir(parents=True)
        (root / name / "adapter_config.json").write_text("{}")
    stat = os.stat

    def stat_whatever_case(path, *args, **options):
        # As vfat, NTFS and the disks of macOS do.
        head, sign, tail = os.fspath(path).partition("/shelf/")
        return stat(head + sign + tail.lower(), *args, **options)

    monkeypatch.setattr(os, "stat", stat_whatever_case)
    folder = AdapterFolder(root)
    assert folder.path("private") == root / "private"
    for name in ("Private", "PRIVATE", "privatE"):
        assert folder.path(name) is None
    (root / "late").mkdir()
    (root / "late" / "adapter_config.json").write_text("{}")
    assert folder.path("late") == root / "late"


# Fine-tuned models and their second names.

TUNED = "ft:tiny:default:pirate:p4lURel0"


def test_a_link_to_a_run_folder_elsewhere_is_served_under_its_tuned_name(tmp_path):
    adapter(tmp_path / "jobs" / "one")
    root = tmp_path / "served"
    root.mkdir()
    (root / TUNED).symlink_to("../jobs/one")
    names = AdapterNames(AdapterFolder(root))
    assert names.names() == [TUNED]
    assert names.look_up(TUNED).name == TUNED
    (root / f"{TUNED}:ckpt-step-5").symlink_to("../jobs/one")
    mixture = names.look_up(f"{TUNED}:0.7+{TUNED}:ckpt-step-5:0.3")
    assert [part.name for part in mixture.parts] == [TUNED, f"{TUNED}:ckpt-step-5"]
    with pytest.raises(UnknownModelError):
        names.look_up("ft:tiny:default:pirate:absent00")


def test_an_alias_is_the_adapter_it_links_to(tmp_path):
    root = tmp_path / "served"
    adapter(tmp_path / "jobs" / "one")
    root.mkdir()
    (root / TUNED).symlink_to("../jobs/one")
    (root / "pirate").symlink_to(TUNED)
    (root / "captain").symlink_to("./pirate")
    (root / "absolute").symlink_to(root / "pirate")
    names = AdapterNames(AdapterFolder(root))
    entry = names.look_up(TUNED)
    for alias in ("pirate", "captain", "absolute"):
        assert names.look_up(alias) is entry
    assert len(names.known()) == 1
    assert {name: found.name for name, found in names.all()} == dict.fromkeys(
        ("absolute", "captain", "pirate", TUNED), TUNED
    )


def test_an_alias_that_is_turned_to_another_adapter_means_that(tmp_path):
    adapter(tmp_path / "one")
    adapter(tmp_path / "two")
    (tmp_path / "best").symlink_to("one")
    names = AdapterNames(AdapterFolder(tmp_path))
    assert names.look_up("best") is names.look_up("one")
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "best")
    assert names.look_up("best") is names.look_up("two")
    assert names.is_current(names.look_up("one"))


def test_an_alias_goes_with_what_its_adapter_means(tmp_path):
    adapter(tmp_path / "one")
    (tmp_path / "best").symlink_to("one")
    names = AdapterNames(AdapterFolder(tmp_path))
    names.take("one")
    with pytest.raises(UnknownModelError):
        names.look_up("best")
    names.give("one", None)
    assert names.look_up("best").name == "one"
    names.hide("best")
    with pytest.raises(UnknownModelError):
        names.look_up("best")
    assert names.look_up("one").name == "one"
    names.give("best", None)
    assert names.look_up("best") is names.look_up("one")


@pytest.mark.parametrize("target", ["best", "loop", "gone", "../outside", "base"])
def test_links_that_lead_nowhere_or_outside_are_no_aliases(tmp_path, target):
    root = tmp_path / "root"
    adapter(root / "one")
    adapter(root / "base")
    adapter(tmp_path / "outside")
    (root / "loop").symlink_to("best")
    (root / "best").symlink_to(target)
    names = AdapterNames(AdapterFolder(root, base="base"))
    if target in ("../outside", "base"):
        assert names.look_up("best").name == "best"
    else:
        with pytest.raises(UnknownModelError):
            names.look_up("best")
