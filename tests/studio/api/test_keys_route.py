"""Keys by the page: the file is the server's own, and a key is shown once."""

import pytest

from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.key_file import change_keys, read_keys

PATH = "/studio/api/keys"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.yaml"


@pytest.fixture
def admin(file, make_engine, call):
    """Calls with an administrator's key."""
    made = []

    def change(content):
        changed, key = content.with_key("boss", {"admin": True})
        made.append(key)
        return changed

    change_keys(file, change, create=True)
    settings = HttpSettings(keys=file)

    def admin(method, path, key=None, **options):
        headers = {"Authorization": f"Bearer {key or made[0]}"}
        return call(make_engine(), method, path, settings=settings, headers=headers, **options)

    return admin


def test_a_key_is_made_listed_without_its_hash_used_and_revoked(admin, file):
    answer = admin("POST", PATH, json={"tenant": "blue", "adapters": ["team-*"], "train": True})
    assert answer.status_code == 200, answer.text
    key = answer.json()["key"]
    assert key not in file.read_text()
    listed = admin("GET", PATH).json()
    assert listed["tenants"]["blue"]["adapters"] == ["team-*"]
    assert listed["tenants"]["blue"]["train"]
    assert "sha256" not in str(listed)
    (entry,) = [each for each in listed["keys"] if each["tenant"] == "blue"]
    assert admin("GET", "/v1/models", key=key).status_code == 200
    gone = admin("DELETE", f"{PATH}/{entry['id']}")
    assert gone.json() == {"object": "studio.key", "id": entry["id"], "deleted": True}
    assert [each.tenant for each in read_keys(file).keys] == ["boss"]


def test_tenants_may_not_see_or_make_keys(admin):
    key = admin("POST", PATH, json={"tenant": "blue"}).json()["key"]
    assert admin("GET", PATH, key=key).status_code == 403
    assert admin("POST", PATH, key=key, json={"tenant": "boss"}).status_code == 403
    assert admin("DELETE", f"{PATH}/00000000", key=key).status_code == 403


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "tenant"),
        ({"tenant": 7}, "tenant"),
        ({"tenant": "no spaces"}, "no tenant's name"),
        ({"tenant": "blue", "adapter": ["*"]}, "adapters"),
        ({"tenant": "blue", "share": 0}, "share"),
    ],
)
def test_a_wrong_body_changes_nothing(admin, file, body, word):
    before = file.read_bytes()
    answer = admin("POST", PATH, json=body)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]
    assert file.read_bytes() == before


def test_an_unknown_key_is_not_found(admin):
    assert admin("DELETE", f"{PATH}/12345678").status_code == 404


def test_a_server_without_a_key_file_says_how_to_make_one(make_engine, call):
    settings = HttpSettings(api_keys=("secret",))
    headers = {"Authorization": "Bearer secret"}
    answer = call(make_engine(), "GET", PATH, settings=settings, headers=headers)
    assert answer.status_code == 400
    assert "gossamer keys add" in answer.json()["error"]["message"]
    assert call(make_engine(), "GET", PATH).status_code == 403
