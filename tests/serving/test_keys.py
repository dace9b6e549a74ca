"""API keys: hashes in a file, callers, what they may name, changes while in use."""

import errno
import os
import threading
import time

import pytest
import yaml

from gossamer.errors import SettingError
from gossamer.serving.core.tenants import NO_LIMITS
from gossamer.serving.key_file import KeyFile, change_keys, read_keys
from gossamer.serving.key_ring import KeyRing
from gossamer.serving.keys import (
    Caller,
    KeyFileSettings,
    KeySettings,
    TenantSettings,
    digest,
    new_key,
)


def add(path, tenant, **settings):
    key, key_id = new_key()

    def change(content):
        entry = KeySettings(id=key_id, tenant=tenant, sha256=digest(key.encode()))
        tenants = {**content.tenants, tenant: TenantSettings(**settings)}
        return KeyFileSettings(tenants=tenants, keys=(*content.keys, entry))

    change_keys(path, change, create=True)
    return key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.yaml"


def test_a_key_finds_its_tenant_and_the_file_holds_only_its_hash(path):
    key = add(path, "alice", adapters=("a-*",), admin=True)
    other = add(path, "bob")
    file = KeyFile(path)
    expected = Caller(tenant="alice", is_admin=True, may_train=True, adapters=("a-*",))
    assert file.find(key.encode()) == expected
    assert file.find(other.encode()) == Caller(tenant="bob", adapters=())
    assert key not in path.read_text()
    assert key.split("_", 2)[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_wrong_keys_find_nobody(path):
    key = add(path, "alice")
    file = KeyFile(path)
    wrong_secret = key[:-1] + ("A" if key[-1] != "A" else "B")
    for text in ("", "gsm_", key[:-1], key + "x", wrong_secret, key.upper(), "x" + key, "ä" * 60):
        assert file.find(text.encode()) is None


def test_a_change_counts_at_the_next_call(path):
    key = add(path, "alice", max_in_flight=2)
    file = KeyFile(path)
    assert file.limits_of("alice").max_in_flight == 2
    assert file.limits_of("nobody") is NO_LIMITS
    second = add(path, "alice", max_in_flight=5, resident_mib=1.5)
    assert file.find(second.encode()) is not None
    assert file.limits_of("alice").max_in_flight == 5
    assert file.limits_of("alice").resident_bytes == 1.5 * 2**20
    change_keys(path, lambda content: KeyFileSettings(tenants=content.tenants, keys=()))
    assert file.find(key.encode()) is None


def test_limits_follow_the_file_without_calls_and_without_reading_it(path, monkeypatch):
    add(path, "alice", max_in_flight=2)
    file = KeyFile(path)
    add(path, "alice", max_in_flight=3)
    readers = set()
    monkeypatch.setattr(
        "gossamer.serving.key_file.read_keys",
        lambda path: readers.add(threading.current_thread()) or read_keys(path),
    )
    monkeypatch.setattr("gossamer.serving.key_file.LOOK_SECONDS", 0.0)
    wait_until(lambda: file.limits_of("alice").max_in_flight == 3)
    assert readers
    assert threading.current_thread() not in readers


def wait_until(is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


SLIPS = {
    "not YAML": "tenants: [",
    "empty": "",
    "an impossible date": "tenants: {}\nkeys: [{id: deadbeef, created: 2026-02-30}]",
    "a date of nonsense": "tenants: {}\nkeys: [!!timestamp 99]",
    "a type of another language": "tenants: !!python/object:os.system {}",
    "deep nesting": "[" * 100_000,
    "deep lists": "- " * 1_000_000,
    "a list of itself": "tenants: &a [*a]",
    "millions by aliases": "\n".join(
        ["a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        + [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    ),
    "millions by merging": "\n".join(
        ["a: &a0 {x: 1}"]
        + [f"b{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 20)]
    ),
    "a number of minutes": "tenants: " + ":".join(["59"] * 1_000_000),
    "wrong types": "tenants: [1]\nkeys: {a: b}",
    "a tenant that is no mapping": "tenants: {a: 1}",
    "not text": b"\xff\xfe\x00",
    "too large": b"#" * (4 * 2**20 + 1),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_whatever_is_wrong_is_one_line_and_the_former_keys_stay_valid(
    path, caplog, monkeypatch, slip
):
    key = add(path, "alice", max_in_flight=2)
    file = KeyFile(path)
    text = SLIPS[slip]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingError) as caught:
        read_keys(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "keys.yaml" in str(caught.value)
    monkeypatch.setattr("gossamer.serving.key_file.LOOK_SECONDS", 0.0)
    for _ in range(3):
        assert file.limits_of("alice").max_in_flight == 2
        assert file.find(key.encode()) is not None
    assert caplog.text.count("the former keys stay valid") == 1


def test_a_file_that_cannot_be_read_now_is_read_when_it_can_be(path, monkeypatch, caplog):
    key = add(path, "alice")
    file = KeyFile(path)
    change_keys(path, lambda content: KeyFileSettings(tenants=content.tenants, keys=()))
    is_broken = True
    open_file = type(path).open

    def open_or_fail(self, *args, **options):
        if is_broken:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(self, *args, **options)

    monkeypatch.setattr(type(path), "open", open_or_fail)
    assert file.find(key.encode()) is not None
    assert file.find(key.encode()) is not None
    assert caplog.text.count("Too many open files") == 1
    is_broken = False
    assert file.find(key.encode()) is None


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(SettingError, match="is not a file"):
        read_keys(path)


def test_a_missing_file_leaves_the_former_keys_valid(path, caplog):
    key = add(path, "alice")
    file = KeyFile(path)
    os.remove(path)
    assert file.find(key.encode()) is not None
    other = add(path, "bob")
    assert file.find(key.encode()) is None
    assert file.find(other.encode()) is not None


@pytest.mark.parametrize("fields", ["{}", "{share: 2}"])
def test_a_tenant_without_a_list_of_adapters_is_not_guessed_at(path, fields):
    """It used to mean all of them, and a new tenant gets none."""
    path.write_text(f"tenants: {{bob: {fields}, eve: {{adapters: []}}}}")
    with pytest.raises(SettingError) as caught:
        read_keys(path)
    assert "tenant 'bob' does not say which adapters it may use" in str(caught.value)
    assert "adapters: ['*'] for all, or adapters: []" in str(caught.value)


def test_what_is_written_says_what_each_tenant_may_use(path):
    add(path, "alice")
    add(path, "bob", adapters=("*",))
    content = yaml.safe_load(path.read_text())
    assert content["tenants"] == {"alice": {"adapters": []}, "bob": {"adapters": ["*"]}}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tenants: [", "is not valid YAML"),
        ("[1, 2]", "must hold 'tenants' and 'keys'"),
        ("tenats: {}", "did you mean 'tenants'"),
        ("tenants: {a: {share: 0}}", "tenants.a.share"),
        ("tenants: {a b: {}}", "'a b' is no tenant's name"),
        ("keys: [{id: 12345678, tenant: x, sha256: y}]", "keys.0.id"),
        (f"keys: [{{id: '12345678', tenant: x, sha256: '{'0' * 64}'}}]", "who is not listed"),
        ("tenants: {a: {adapters: []}}\nkeys: [{created: 2026-02-30}]", "day is out of range"),
        ("tenants: {a: {adapters: null}}", "tenants.a.adapters"),
        ("[" * 50, "line 1 is nested more than 32 levels deep"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_name(path, text, part):
    path.write_text(text)
    with pytest.raises(SettingError) as caught:
        read_keys(path)
    assert part in str(caught.value)
    assert "keys.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_tells_how_to_make_one(path):
    with pytest.raises(SettingError, match="gossamer keys add TENANT --file"):
        KeyFile(path)


def test_changes_at_the_same_time_are_all_kept(path):
    threads = [threading.Thread(target=add, args=(path, f"t{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = read_keys(path)
    assert len(content.keys) == len(content.tenants) == 12
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".keys")] == []


@pytest.mark.parametrize(
    ("patterns", "adapter", "is_allowed"),
    [
        (None, "anything", True),
        ((), "a", False),
        (("a", "b-*"), "a", True),
        (("a", "b-*"), "b-1", True),
        (("a", "b-*"), "ab", False),
        (("a", "b-*"), "A", False),
        (("a[1]",), "a[1]", True),
        # Two ways to write one letter are two names.
        (("caf\u00e9",), "cafe\u0301", False),
    ],
)
def test_what_may_be_used(patterns, adapter, is_allowed):
    assert Caller(adapters=patterns).may_use(adapter) is is_allowed


TUNED = "ft:tiny:alice:pirate:p4lURel0"


@pytest.mark.parametrize(
    ("caller", "is_allowed"),
    [
        (Caller(tenant="alice", adapters=()), True),
        (Caller(tenant="bob", adapters=()), False),
        (Caller(tenant="bob", adapters=("*",)), False),
        (Caller(tenant="bob", adapters=("ft:*:alice:*",)), True),
        (Caller(tenant="bob", adapters=("ft*", "?t:*")), False),
        (Caller(tenant="bob", adapters=(), granted=frozenset({TUNED})), True),
        (Caller(tenant="bob", adapters=("*",), is_admin=True), True),
        (Caller(), True),
    ],
)
def test_a_tuned_model_is_its_owners(caller, is_allowed):
    assert caller.may_use(TUNED) is is_allowed


def test_who_may_train_follows_from_the_file(path):
    plain, trains = add(path, "alice"), add(path, "bob", train=True, max_jobs=2)
    ring = KeyRing(("operator",), KeyFile(path))
    assert ring.needs_key
    assert not ring.find(plain.encode()).may_train
    assert ring.find(trains.encode()).may_train
    assert ring.find(b"operator").may_train
    assert ring.find(b"nobody") is None
    assert ring.tenant("bob").max_jobs == 2
    assert ring.tenant("nobody") is None
    assert not KeyRing().needs_key


def test_a_caller_is_found_again_by_the_id_of_its_key_until_it_is_revoked(path):
    key = add(path, "alice")
    ring = KeyRing(("operator",), KeyFile(path))
    for shown in (key.encode(), b"operator"):
        caller = ring.find(shown)
        assert ring.find_id(caller.key_id) == caller
    assert ring.find_id("00000000") is None
    key_id = ring.find(key.encode()).key_id
    change_keys(path, lambda content: content.without_key(key_id))
    assert ring.find_id(key_id) is None
