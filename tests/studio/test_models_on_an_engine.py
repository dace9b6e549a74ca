"""What people do with tuned models, on an engine that computes: names, trash, zips."""

import io
import threading
import time
import zipfile

import httpx
import pytest
from engine_case import slow_down, start
from live_server import live
from open_store import open_store
from safetensors.torch import load_file, save_file

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store.records import ModelRecord
from gossamer.studio.assembly import StudioParts
from gossamer.studio.new_job import BaseModel

from tiny import make_lora

pytestmark = pytest.mark.slow

NAME = "ft:tiny:default:x:abcdefgh"
MODELS = "/studio/api/models"


@pytest.fixture
def client(tiny_model, tmp_path):
    """A session on a server with one model."""
    settings = JobsSettings(data_dir=str(tmp_path / "data"), disk_floor_mib=1)
    store = open_store(settings)
    make_lora(settings.folder.imports / NAME, tiny_model, rank=4)
    settings.folder.link(NAME).symlink_to(f"../imports/{NAME}")
    about = {"job_id": None, "folder": f"imports/{NAME}", "tenant": "default"}
    files = {"digest": "d", "bytes": 1, "created": 1.0, "deleted": None}
    store.models.add(ModelRecord(name=NAME, alias=None, **about, **files))
    engine = start(tiny_model, (settings.folder.served,))
    base = BaseModel(engine.model_name, str(tiny_model), lambda: 48)
    parts = StudioParts(settings, base, store=store, token="once")
    with live(engine, [parts.api(), *parts.page()]) as (host, port):
        url = f"http://{host}:{port}"
        with httpx.Client(base_url=url, headers={"Origin": url}, timeout=300) as client:
            assert client.post("/studio/session", json={"token": "once"}).status_code == 200
            client.engine, client.served = engine, settings.folder.served
            yield client
    store.close()


def ask(client, model, length=8):
    body = {"model": model, "prompt": "a b c", "max_tokens": length, "temperature": 0}
    answer = client.post("/v1/completions", json=body)
    if answer.status_code != 200:
        return answer.status_code, answer.json()["error"]["message"]
    return 200, answer.json()["choices"][0]["text"]


def names(client):
    return [model["id"] for model in client.get("/v1/models").json()["data"][1:]]


def zipped(folder):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for path in folder.iterdir():
            made.write(path, path.name)
    return content.getvalue()


def test_a_name_of_ones_own_is_one_adapter_in_memory(client):
    tuned = ask(client, NAME)
    assert tuned != ask(client, client.engine.model_name)
    assert client.post(f"{MODELS}/{NAME}/alias", json={"alias": "pirate"}).status_code == 200
    assert ask(client, "pirate") == tuned
    assert ask(client, f"pirate:0.5+{NAME}:0.5") == tuned
    assert list(client.engine.stats().resident_bytes) == [NAME]
    assert names(client) == [NAME, "pirate"]


def test_requests_that_run_end_with_a_model_that_is_deleted_and_it_comes_back(client):
    client.post(f"{MODELS}/{NAME}/alias", json={"alias": "pirate"})
    whole = ask(client, "pirate", 60)
    slow_down(client.engine, 0.02)
    answers = []
    running = threading.Thread(target=lambda: answers.append(ask(client, "pirate", 60)))
    running.start()
    while not client.engine.stats().num_running:
        time.sleep(0.01)
    assert client.delete("/v1/models/pirate").json()["deleted"] is True
    for gone in ("pirate", NAME):
        status, message = ask(client, gone)
        assert status == 404
        assert "did you mean" not in message
    running.join()
    assert answers == [whole]
    assert names(client) == []
    assert client.post(f"{MODELS}/{NAME}/restore").json()["alias"] == "pirate"
    assert ask(client, "pirate", 60) == ask(client, NAME, 60) == whole


def test_a_zip_is_served_if_it_fits_the_model_that_is_served(client, tiny_model, tmp_path):
    tuned = ask(client, NAME)
    archive = client.get(f"{MODELS}/{NAME}/archive").content
    imports = "/studio/api/imports"
    sent = {"data": {"name": "parrot"}, "files": {"file": ("a.zip", archive)}}
    assert client.post(imports, **sent).status_code == 200
    assert ask(client, "parrot") == tuned
    other = make_lora(tmp_path / "other", tiny_model, rank=4)
    weights = load_file(other / "adapter_model.safetensors")
    narrow = {key: each[:, :-2].contiguous() for key, each in weights.items()}
    save_file(narrow, other / "adapter_model.safetensors")
    before = sorted(path.name for path in client.served.iterdir())
    sent = {"data": {"name": "other"}, "files": {"file": ("a.zip", zipped(other))}}
    refused = client.post(imports, **sent)
    assert refused.status_code == 422
    assert ask(client, "other")[0] == 404
    assert sorted(path.name for path in client.served.iterdir()) == before
