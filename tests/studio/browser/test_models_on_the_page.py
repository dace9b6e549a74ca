"""A result is kept under a name of one's own, deleted, and brought back; on the real routes."""

from contextlib import contextmanager

import pytest
from fake_engine import FakeEngine
from live_server import live
from open_store import open_store
from playwright.sync_api import expect

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store.records import ModelRecord
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.store.folder import AdapterFolder
from gossamer.studio.assembly import StudioParts
from gossamer.studio.new_job import BaseModel

from tiny import make_lora, tiny_tokenizer

NAME = "ft:tiny:default:helpdesk:abcdefgh"


class FolderEngine(FakeEngine):
    """Plays answers, and lists the adapters that lie in a folder."""

    def __init__(self, folder):
        self._folder = AdapterFolder(folder)
        super().__init__(tiny_tokenizer())

    @property
    def _adapters(self):
        names = self._folder.names()
        found = [(name, self._folder.look_up(name).name) for name in names]
        return [
            AdapterStatus(name=name, state="registered", alias_of=None if own == name else own)
            for name, own in found
        ]

    @_adapters.setter
    def _adapters(self, value):
        pass


@pytest.fixture
def studio(tmp_path, contexts):
    """Serve the page with one model; `with studio() as (url, store)`."""

    @contextmanager
    def studio():
        settings = JobsSettings(data_dir=str(tmp_path / "data"), disk_floor_mib=1)
        store = open_store(settings)
        run = settings.folder.imports / NAME
        run.mkdir()
        (run / "adapter_config.json").write_text("{}")
        settings.folder.link(NAME).symlink_to(f"../imports/{NAME}")
        store.models.add(
            ModelRecord(
                name=NAME,
                alias=None,
                job_id=None,
                folder=f"imports/{NAME}",
                tenant="default",
                digest="d",
                bytes=1,
                created=1.0,
                deleted=None,
            )
        )
        engine = FolderEngine(settings.folder.served)
        base = BaseModel("tiny", str(tmp_path), lambda: 64)
        parts = StudioParts(settings, base, store=store, token="once")
        try:
            with live(engine, [parts.api(), *parts.page()]) as (host, port):
                yield f"http://{host}:{port}", store
                while contexts:
                    contexts.pop().close()
        finally:
            engine.shutdown()
            store.close()

    return studio


def test_an_adapter_is_imported_and_downloaded_again(studio, open_page, tiny_model, tmp_path):
    folder = make_lora(tmp_path / "parrot", tiny_model, rank=2)
    (folder / "tokenizer.json").write_text("{}")
    with studio() as (url, store):
        page = open_page(f"{url}/studio/adapters#token=once", expected=("400",))
        page.get_by_label("Choose a folder").set_input_files(folder)
        field = page.get_by_role("textbox", name="Name")
        expect(field).to_have_value("parrot")
        field.fill("tiny")
        page.get_by_role("button", name="Import", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("the name 'tiny' is taken")
        field.fill("polly")
        page.get_by_role("button", name="Import", exact=True).click()
        expect(page.get_by_text("“polly” is served")).to_be_visible()
        with page.expect_download() as sent:
            page.get_by_role("button", name="More for polly").click()
            page.get_by_role("link", name="Download polly").click()
        assert sent.value.suggested_filename == "polly.zip"
        again = tmp_path / "again.zip"
        sent.value.save_as(again)
        page.get_by_label("Choose a zip").set_input_files(again)
        expect(field).to_have_value("again")
        page.get_by_role("button", name="Import", exact=True).click()
        expect(page.get_by_role("button", name="More for again")).to_be_visible()
        one, two = store.models.find("default", "polly"), store.models.find("default", "again")
        assert one.digest == two.digest


def test_a_model_is_kept_from_the_chat_renamed_deleted_and_brought_back(studio, open_page):
    with studio() as (url, store):
        page = open_page(f"{url}/studio/chat?models=tiny,{NAME}#token=once", expected=("400",))
        page.get_by_role("button", name="Keep helpdesk abcd").click()
        field = page.get_by_label("Name")
        expect(field).to_have_value("helpdesk")
        field.fill("tiny")
        page.get_by_role("button", name="Keep", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("the name 'tiny' is taken")
        field.fill("desk")
        page.get_by_role("button", name="Keep", exact=True).click()
        expect(page.get_by_role("button", name="Take desk away")).to_be_visible()
        assert store.models.get("default", NAME).alias == "desk"

        page.get_by_role("link", name="Adapters").click()
        page.get_by_role("button", name="Rename desk").click()
        page.get_by_label("Name", exact=True).fill("counter")
        page.get_by_role("button", name="Keep", exact=True).click()
        expect(page.get_by_role("row")).to_have_count(2)
        page.get_by_role("button", name="More for counter").click()
        page.get_by_role("button", name="Delete counter").click()
        expect(page.get_by_text("Deleted “counter”")).to_be_visible()
        expect(page.get_by_text("No adapters yet")).to_be_visible()
        page.get_by_role("button", name="Undo: counter").click()
        expect(page.get_by_role("button", name="More for counter")).to_be_visible()
        expect(page.get_by_text("Deleted “counter”")).to_have_count(0)
        page.get_by_role("button", name="More for counter").click()
        page.get_by_role("button", name="Delete counter").click()
        page.reload()
        page.get_by_text("1 deleted, which can be brought back").click()
        page.get_by_role("button", name="Bring back: counter").click()
        expect(page.get_by_role("button", name="More for counter")).to_be_visible()
