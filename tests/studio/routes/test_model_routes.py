"""Tuned models: shared with tenants, taken back, deleted."""

from job_case import create

from gossamer.jobs.data_folder import run_place
from gossamer.jobs.store.tables import ModelRow
from gossamer.serving.core.stats import AdapterStatus


def add_model(store, job_id, name):
    """A model as the end of a job makes it."""
    with store.database.write() as session:
        session.add(
            ModelRow(
                name=name,
                job_id=job_id,
                folder=run_place(job_id),
                tenant="alice",
                digest="d",
                bytes=1,
                created=1.0,
            )
        )


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
