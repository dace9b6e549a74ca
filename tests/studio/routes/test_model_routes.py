"""Tuned models: shared with tenants, named, deleted and brought back."""

import os

import pytest
from job_case import JOBS, add_model, create

from gossamer.cli.main import main
from gossamer.jobs.store.tables import JobRow
from gossamer.serving.core.stats import AdapterStatus


def test_a_model_is_shared_taken_back_and_deleted(serve, file_of, store, settings, keys):
    alice, bob = keys("alice", "--train"), keys("bob")
    with serve(key=alice, keys=keys.path) as client:
        job = create(client, file_of(client)).json()["id"]
        name = store.jobs.of_statuses("queued")[0].name
        add_model(store, job, name)
        link = settings.folder.link(name)
        link.symlink_to("../jobs")
        client.engine._adapters.append(AdapterStatus(name=name, state="registered"))
        path = f"/v1/fine_tuning/checkpoints/{name}/permissions"
        as_bob = {"headers": {"Authorization": f"Bearer {bob}"}}
        assert client.get(f"/v1/models/{name}").status_code == 200
        assert client.get(f"/v1/models/{name}", **as_bob).status_code == 404
        made = client.post(path, json={"project_ids": ["bob", "carol"]}).json()["data"]
        assert [each["object"] for each in made] == ["checkpoint.permission"] * 2
        assert client.get(f"/v1/models/{name}", **as_bob).status_code == 200
        listed = client.get(path, params={"project_id": "bob", "order": "descending"}).json()
        assert [each["project_id"] for each in listed["data"]] == ["bob"]
        assert client.get(path, **as_bob).status_code == 404
        taken = client.delete(f"{path}/{listed['data'][0]['id']}").json()
        assert taken["deleted"] is True
        assert client.get(f"/v1/models/{name}", **as_bob).status_code == 404
        assert client.post(path, json={"project_ids": ["a/b"]}).status_code == 400
        assert client.delete(f"/v1/models/{name}", **as_bob).status_code == 404
        gone = client.delete(f"/v1/models/{name}").json()
        assert gone == {"id": name, "object": "model", "deleted": True}
        assert client.engine.controls == [("unload", name)]
        assert not link.is_symlink()
        assert client.delete(f"/v1/models/{name}").status_code == 404
        assert client.delete("/v1/models/pirate").json()["error"]["code"] == "wrong_state"


def test_without_key_or_session_no_model_is_deleted(serve):
    with serve() as client:
        refused = client.delete("/v1/models/ft:tiny:default:x:abcdefgh")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required")


def target(link):
    return link.resolve() if link.is_symlink() else None


def test_a_model_is_kept_under_a_name_of_ones_own(kept, settings):
    served, run = settings.folder.served, settings.folder.job(kept.job).run
    named = kept.post(f"{kept.at}/alias", json={"alias": "pirate"}).json()
    assert (named["id"], named["alias"], named["job_id"]) == (kept.name, "pirate", kept.job)
    assert target(served / "pirate") == run
    assert kept.engine.controls == [("load", "pirate", None, False, False)]
    assert kept.get(f"{JOBS}/{kept.job}").json()["alias"] == "pirate"
    # Its other name will do, and the former one is free again.
    renamed = kept.post("/studio/api/models/pirate/alias", json={"alias": "parrot"}).json()
    assert renamed["alias"] == "parrot"
    assert not (served / "pirate").is_symlink()
    assert target(served / "parrot") == run
    assert kept.delete(f"{kept.at}/alias").json()["alias"] is None
    assert not (served / "parrot").is_symlink()
    assert kept.get(f"{JOBS}/{kept.job}").json()["alias"] is None


@pytest.mark.parametrize(
    "alias", ["", ".x", "a/b", "a:1", "a+b", "..", "a b", "ft:tiny:a::x", "x" * 65]
)
def test_what_cannot_be_a_name_is_refused(kept, alias):
    refused = kept.post(f"{kept.at}/alias", json={"alias": alias})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "alias")


def test_a_name_that_is_taken_is_refused(kept, store, settings):
    kept.engine._adapters.append(AdapterStatus(name="poet", state="registered"))
    second = "ft:tiny:alice:x:bbbbbbbb"
    add_model(store, kept.job, second)
    assert store.models.rename("alice", second, "parrot").alias == "parrot"
    for alias in ("poet", "tiny", "parrot"):
        refused = kept.post(f"{kept.at}/alias", json={"alias": alias})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "name_taken")
    assert list(settings.folder.served.iterdir()) == [settings.folder.link(kept.name)]


def test_a_deleted_model_comes_back_under_the_same_names(kept, settings):
    folder, run = settings.folder, settings.folder.job(kept.job).run
    kept.post(f"{kept.at}/alias", json={"alias": "pirate"})
    assert kept.delete("/v1/models/pirate").json()["id"] == kept.name
    assert list(folder.served.iterdir()) == []
    assert target(folder.trash / kept.name) == run
    assert kept.engine.controls[-1] == ("unload", kept.name)
    assert kept.post(f"{kept.at}/alias", json={"alias": "x"}).status_code == 404
    (gone,) = kept.get("/studio/api/trash").json()["data"]
    assert (gone["id"], gone["alias"]) == (kept.name, "pirate")
    assert gone["restorable_until"] - gone["deleted_at"] == 7 * 86400
    job = kept.get(f"{JOBS}/{kept.job}").json()
    assert (job["alias"], job["deleted_at"]) == (None, gone["deleted_at"])
    back = kept.post(f"{kept.at}/restore").json()
    assert (back["alias"], back["deleted_at"]) == ("pirate", None)
    assert target(folder.link(kept.name)) == target(folder.link("pirate")) == run
    assert list(folder.trash.iterdir()) == []
    assert kept.engine.controls[-1] == ("load", kept.name, None, False, False)
    assert kept.get("/studio/api/trash").json()["data"] == []
    assert kept.post(f"{kept.at}/restore").status_code == 404


def test_the_name_of_a_deleted_model_may_be_given_to_another(kept, store, settings):
    kept.post(f"{kept.at}/alias", json={"alias": "pirate"})
    kept.delete("/v1/models/pirate")
    second = "ft:tiny:alice:x:bbbbbbbb"
    add_model(store, kept.job, second)
    path = f"/studio/api/models/{second}/alias"
    assert kept.post(path, json={"alias": "pirate"}).json()["id"] == second
    assert kept.post(f"{kept.at}/restore").json()["alias"] is None
    assert os.readlink(settings.folder.link("pirate")) == f"./{second}"


def test_what_is_anothers_is_neither_named_nor_found(kept):
    kept.post(f"{kept.at}/alias", json={"alias": "pirate"})
    pet = AdapterStatus(name="pirate", state="registered", alias_of=kept.name)
    kept.engine._adapters.append(pet)
    assert kept.get("/v1/models/pirate").status_code == 200
    assert kept.get("/v1/models/pirate", **kept.as_bob).status_code == 404
    for method, path in (
        ("POST", f"{kept.at}/alias"),
        ("POST", "/studio/api/models/pirate/alias"),
        ("DELETE", f"{kept.at}/alias"),
        ("POST", f"{kept.at}/restore"),
    ):
        body = {"json": {"alias": "mine"}} if path.endswith("alias") else {}
        assert kept.request(method, path, **body, **kept.as_bob).status_code == 404, path
    assert kept.get("/studio/api/trash", **kept.as_bob).json()["data"] == []


def test_the_command_keeps_what_a_job_has_made(kept, store, capsys):
    key = kept.headers["Authorization"].removeprefix("Bearer ")
    options = ("--url", str(kept.base_url), "--api-key", key)
    assert main(["jobs", "keep", kept.job, "pirate", *options]) == 2
    assert "is queued; only a job that has succeeded" in capsys.readouterr().err
    with store.database.write() as session:
        session.get(JobRow, kept.job).status = "succeeded"
    assert main(["jobs", "keep", kept.job[-6:], "pirate", *options]) == 0
    assert capsys.readouterr().out == f"{kept.name} is served as pirate, too\n"
    assert main(["jobs", "keep", kept.job, "a/b", *options]) == 1
    assert "'a/b' cannot be a model's name" in capsys.readouterr().err
