"""The page on the real routes of files, jobs and sessions; what trains and answers is played."""

import json
from contextlib import contextmanager

import pytest
from fake_engine import FakeEngine
from live_server import live
from open_store import open_store
from playwright.sync_api import expect

from gossamer.jobs.settings import JobsSettings
from gossamer.studio.assembly import StudioParts
from gossamer.studio.new_job import BaseModel

from tiny import tiny_tokenizer

PATIENCE = 90_000  # milliseconds: processes that load torch check the file

GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "arr"}]}
ROWS = "".join(json.dumps(row) + "\n" for row in [GOOD, GOOD, {"messages": []}, *[GOOD] * 17])


class Idle:
    """Runs no job."""

    def start(self):
        pass

    def wake(self):
        pass

    def stop(self):
        pass


@pytest.fixture
def studio(tmp_path, tiny_model, contexts):
    """Serve it; yields the address."""

    @contextmanager
    def studio(**http):
        settings = JobsSettings(data_dir=str(tmp_path / "data"), disk_floor_mib=1)
        store = open_store(settings)
        engine = FakeEngine(tiny_tokenizer())
        base = BaseModel("tiny", str(tiny_model), lambda: 64)
        parts = StudioParts(settings, base, store=store, token="once", runner=Idle())
        try:
            with live(engine, [parts.api(), *parts.page()], **http) as (host, port):
                yield f"http://{host}:{port}"
                while contexts:
                    contexts.pop().close()
        finally:
            engine.shutdown()
            store.close()

    return studio


@pytest.mark.slow
def test_a_file_is_checked_and_its_job_queued_and_cancelled(studio, open_page):
    with studio() as url:
        page = open_page(f"{url}/studio/#token=once", expected=("400",))
        expect(page.get_by_text("No jobs yet")).to_be_visible()
        assert "token" not in page.url
        page.get_by_role("link", name="New adapter").click()
        rows = {"name": "chats.jsonl", "mimeType": "application/jsonl", "buffer": ROWS.encode()}
        page.set_input_files("input[type=file]", rows)
        expect(page.get_by_text("19 rows", exact=True)).to_be_visible(timeout=PATIENCE)
        expect(page.get_by_text("18 rows repeat another")).to_be_visible()
        expect(page.get_by_text("1 of 20 rows of training_file cannot be used")).to_be_visible()
        page.get_by_label("Leave it out", exact=True).check()
        expect(page.get_by_text("Tokens per row")).to_be_visible(timeout=PATIENCE)
        expect(page.locator("mark").first).to_contain_text("arr")
        expect(page.get_by_text("19 rows in the file")).to_be_visible()
        page.get_by_label("dora").check()
        page.get_by_role("button", name="Compare 2 methods").click()
        expect(page.get_by_role("heading", level=1, name="chats")).to_be_visible()
        expect(page.get_by_role("row").filter(has_text="dora")).to_contain_text("waits")
        page.get_by_role("button", name="Cancel chats").click()
        page.get_by_role("button", name="Cancel it").click()
        page.get_by_role("link", name="Again: chats").click()
        expect(page.get_by_label("dora")).to_be_checked()
        expect(page.get_by_label("Name")).to_have_value("chats")
        page.get_by_role("link", name="Server", exact=True).click()
        expect(page.get_by_text("One pool of")).to_be_visible()


@pytest.mark.slow
def test_who_has_no_key_is_asked_for_one_and_a_wrong_one_is_refused(studio, open_page):
    with studio(api_keys=("secret",)) as url:
        page = open_page(f"{url}/studio/adapters", expected=("401",))
        expect(page.get_by_role("heading", level=1, name="Sign in")).to_be_visible()
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("wrong key")
        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1, name="Adapters")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", level=1, name="Adapters")).to_be_visible()
