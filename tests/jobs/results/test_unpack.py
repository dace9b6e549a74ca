"""A zip from somebody else gives an adapter's files, or one sentence, and nothing beside them."""

import io
import random
import stat
import struct
import zipfile

import pytest

from gossamer.errors import JobError
from gossamer.jobs.results.unpack import KEPT, MAX_MEMBERS, unpack

CONFIG, WEIGHTS = KEPT[:2]
GOOD = {f"pirate/{CONFIG}": b"{}", f"pirate/{WEIGHTS}": b"w" * 2000, "pirate/tokenizer.json": b"{}"}
LIMIT = 10_000


def packed(members, method=zipfile.ZIP_DEFLATED):
    """A zip of contents by name; a name may also be a `ZipInfo`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return content.getvalue()


def linked(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.fixture
def take(tmp_path):
    """Unpack bytes; returns what was left, or the refusal. Nothing is ever written elsewhere."""
    into, path = tmp_path / "into", tmp_path / "sent"
    into.mkdir()

    def take(content, limit=LIMIT):
        path.write_bytes(content)
        try:
            return unpack(path, into, limit)
        finally:
            assert {each.name for each in tmp_path.iterdir()} == {"into", "sent"}
            assert {each.name for each in into.iterdir()} <= set(KEPT)

    take.into = into
    return take


@pytest.mark.parametrize("folder", ["", "pirate/", "a/b/"])
def test_the_files_of_an_adapter_are_taken_from_whatever_folder(take, folder):
    members = {f"{folder}{name}": name.encode() for name in (*KEPT, "tokenizer.json")}
    members[f"{folder}checkpoints/step-3/{CONFIG}"] = b"{}"
    left = take(packed(members))
    assert {path.name: path.read_text() for path in take.into.iterdir()} == {n: n for n in KEPT}
    assert left == [f"{folder}checkpoints/step-3/{CONFIG}", f"{folder}tokenizer.json"]


HOSTILE = {
    "a way out": ({"../x": b""}, "leads out"),
    "a way out in the middle": ({"pirate/../../x": b""}, "leads out"),
    "an absolute name": ({"/etc/x": b""}, "leads out"),
    "a drive": ({"C:x": b""}, "leads out"),
    "a backslash": ({"pirate\\..\\x": b""}, "leads out"),
    "a link": ({linked("pirate/x", stat.S_IFLNK | 0o777): b"/etc/passwd"}, "no plain file"),
    "the weights as a link": (
        {linked(f"a/{WEIGHTS}", stat.S_IFLNK | 0o777): b"/etc/passwd", f"a/{CONFIG}": b"{}"},
        "no plain file",
    ),
    "a device": ({linked("pirate/x", stat.S_IFCHR | 0o666): b""}, "no plain file"),
    "a name that differs in case alone": ({"pirate/Adapter_config.json": b""}, "twice"),
    "pickled weights": ({"pirate/adapter_model.bin": b""}, "can run code"),
    "other pickles": ({"pirate/training_args.PKL": b""}, "can run code"),
    "another adapter": ({f"parrot/{CONFIG}": b"{}"}, "several adapters"),
    "too many files": ({f"pirate/{n}": b"" for n in range(MAX_MEMBERS)}, "more than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_should_not_be_in_it_is_refused(take, name):
    members, reason = HOSTILE[name]
    with pytest.raises(JobError, match=reason) as caught:
        take(packed({**GOOD, **members}))
    assert caught.value.code == "invalid_archive"


def test_two_members_of_one_name_are_refused(take):
    content = io.BytesIO(packed(GOOD))
    with zipfile.ZipFile(content, "a") as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr(f"pirate/{CONFIG}", b"{1}")
    with pytest.raises(JobError, match="twice"):
        take(content.getvalue())


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 1000, packed({"a.txt": b""})])
def test_what_is_no_adapter_is_refused(take, content):
    with pytest.raises(JobError, match=r"is no zip|has no adapter_config"):
        take(content)


def test_a_bomb_ends_at_the_limit_whatever_it_says_of_its_size(take):
    bomb = packed({f"p/{CONFIG}": b"{}", f"p/{WEIGHTS}": b"\0" * (3 << 20)})
    assert len(bomb) < 5000
    lying = bomb.replace(struct.pack("<L", 3 << 20), struct.pack("<L", 100))
    for content in (bomb, lying):
        with pytest.raises(JobError, match=r"larger than|cannot be read"):
            take(content)
        assert sum(path.stat().st_size for path in take.into.iterdir()) <= LIMIT
        for path in take.into.iterdir():
            path.unlink()


def test_a_large_table_of_contents_is_refused_before_it_is_read(take, monkeypatch):
    content = packed(GOOD)
    end = content.rfind(b"PK\x05\x06")
    large = struct.pack("<L", 2**30)
    monkeypatch.setattr("zipfile.ZipFile", lambda file: pytest.fail("it was read"))
    with pytest.raises(JobError, match="too many files"):
        take(content[: end + 12] + large + content[end + 16 :])
    record = b"PK\x06\x06" + bytes(36) + struct.pack("<QQ", 2**40, 0)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, end, 1)
    with pytest.raises(JobError, match="too many files"):
        take(content[:end] + record + locator + content[end:])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_ways_of_packing_that_give_any_amount_at_once_are_refused(take, method):
    with pytest.raises(JobError, match="unusual way"):
        take(packed(GOOD, method))


def test_damage_is_told_in_one_sentence(take):
    content, chance = packed(GOOD), random.Random(5)
    refusals = []
    for _ in range(600):
        broken = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        if chance.random() < 0.3:
            del broken[chance.randrange(len(broken)) :]
        try:
            take(bytes(broken))
        except JobError as error:
            refusals.append(str(error))
        for path in take.into.iterdir():
            path.unlink()
    assert len(refusals) > 100
    assert not any("\n" in message for message in refusals)
