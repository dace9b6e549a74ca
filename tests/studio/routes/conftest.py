"""A live server with files and jobs over an engine without a model."""

from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from commands.keys import key_maker
from fake_engine import FakeEngine
from job_case import PAIR, add_model, create, wait
from live_server import live
from open_store import open_store

from gossamer.jobs.data_folder import run_place
from gossamer.jobs.settings import JobsSettings
from gossamer.serving.core.stats import AdapterStatus
from gossamer.studio.assembly import StudioParts
from gossamer.studio.new_job import BaseModel

from tiny import tiny_tokenizer


@pytest.fixture
def keys(tmp_path, capsys):
    """A key file and a function that adds a tenant with a key to it."""
    return key_maker(tmp_path / "keys.yaml", capsys)


class Idle:
    """Runs no job, and notes what it is told."""

    def __init__(self):
        self.calls = []

    def start(self):
        pass

    def wake(self):
        self.calls.append("wake")

    def stop(self):
        pass


@pytest.fixture
def settings(tmp_path):
    return JobsSettings(data_dir=str(tmp_path / "data"), disk_floor_mib=1, max_upload_mib=1)


@pytest.fixture
def store(settings):
    store = open_store(settings)
    yield store
    store.close()


@pytest.fixture
def serve(settings, store, monkeypatch):
    """Serve files and jobs; yields a client, to which `key` gives a bearer key."""

    class Roomy:
        free, total = 2**50, 2**51

    monkeypatch.setattr("gossamer.jobs.files.service.shutil.disk_usage", lambda path: Roomy)

    @contextmanager
    def serve(*, token=None, key=None, page=False, estimator=None, **http):
        engine = FakeEngine(tiny_tokenizer())
        base = BaseModel("tiny", str(Path(settings.data_dir) / "model"), lambda: 64)
        runner = Idle()
        parts = StudioParts(
            settings, base, store=store, token=token, runner=runner, estimator=estimator
        )
        extensions = [parts.api(), *(parts.page() if page else ())]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with live(engine, extensions, **http) as (host, port):
                url = f"http://{host}:{port}"
                with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
                    client.engine, client.woken = engine, runner.calls
                    yield client
        finally:
            engine.shutdown()

    return serve


@pytest.fixture
def send():
    """Upload rows; returns the file's object."""

    def send(client, content=PAIR * 3, name="rows.jsonl", purpose="fine-tune", **options):
        return client.post(
            "/v1/files", data={"purpose": purpose}, files={"file": (name, content)}, **options
        )

    return send


@pytest.fixture
def make_plain_server():
    """Serve without jobs."""

    @contextmanager
    def make():
        engine = FakeEngine(tiny_tokenizer())
        try:
            with live(engine) as (host, port):
                yield httpx.Client(base_url=f"http://{host}:{port}")
        finally:
            engine.shutdown()

    return make


@pytest.fixture
def file_of(send, store):
    """Upload rows that count as checked; returns the file's identifier."""

    def file_of(client, content=PAIR * 12, **options):
        answer = send(client, content, **options)
        assert answer.status_code == 200, answer.text
        file_id = answer.json()["id"]
        wait(client, file_id)
        return file_id

    return file_of


@pytest.fixture
def kept(serve, file_of, store, settings, keys):
    """A server on which alice has a model with files; `call` is by her, or by the tenant named."""
    alice, bob = keys("alice", "--train"), keys("bob", "--train", "--adapter", "*")
    with serve(keys=keys.path) as client:
        client.headers["Authorization"] = f"Bearer {alice}"
        job = create(client, file_of(client), suffix="pirate").json()["id"]
        client.job, client.name = job, store.jobs.of_statuses("queued")[0].name
        run = settings.folder.job(job).run
        run.mkdir(parents=True)
        (run / "adapter_config.json").write_text("{}")
        add_model(store, job, client.name)
        settings.folder.link(client.name).symlink_to(f"../{run_place(job)}")
        client.engine._adapters.append(AdapterStatus(name=client.name, state="registered"))
        client.as_bob = {"headers": {"Authorization": f"Bearer {bob}"}}
        client.at = f"/studio/api/models/{client.name}"
        yield client
