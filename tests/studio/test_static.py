"""The page is one document for every view; its files may be kept for ever; both are guarded."""

import asyncio
import gzip
import re

import httpx
import pytest
from fastapi import FastAPI

from gossamer.studio.static import load_page, page_router


@pytest.fixture(scope="module")
def app():
    app = FastAPI(openapi_url=None)
    app.include_router(page_router())
    return app


@pytest.fixture
def get(app):
    def get(path, **headers):
        async def run():
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(run())

    return get


@pytest.mark.parametrize("view", ["", "new", "jobs/ftjob-1", "chat?models=a,b", "no/such/view"])
def test_every_view_is_the_document(get, view):
    answer = get(f"/studio/{view}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert '<div id="app">' in answer.text


def test_the_root_leads_to_the_page(get):
    answer = get("/studio")
    assert answer.status_code == 307
    assert answer.headers["location"] == "/studio/"


def test_every_file_that_the_document_names_is_served_for_ever(get):
    names = re.findall(r'"(/studio/static/[^"]+)"', get("/studio/").text)
    assert len(names) > 10
    for name in names:
        answer = get(name)
        assert answer.status_code == 200, name
        assert "immutable" in answer.headers["cache-control"]
    assert get(next(n for n in names if n.endswith("main.js"))).headers["content-type"] == (
        "text/javascript; charset=utf-8"
    )


def test_the_policy_lets_no_text_become_script_or_markup(get):
    for path in ("/studio/", f"/studio/static/{load_page().version}/js/main.js"):
        headers = get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "trusted-types 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"


def test_files_come_compressed_to_those_who_take_it(get):
    path = f"/studio/static/{load_page().version}/vendor/marked.js"
    plain, packed = get(path, **{"Accept-Encoding": "identity"}), get(path)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert gzip.decompress(load_page().files["vendor/marked.js"].packed) == plain.content


@pytest.mark.parametrize(
    "path",
    [
        "/studio/static/0123456789abcdef/js/main.js",
        "/studio/static/VERSION/js/none.js",
        "/studio/static/VERSION/../static.py",
        "/studio/static/VERSION/%2e%2e/static.py",
        "/studio/static/VERSION/",
        "/studio/api/none",
    ],
)
def test_what_is_no_file_of_the_page_is_not_found(get, path):
    assert get(path.replace("VERSION", load_page().version)).status_code == 404


def test_sheets_are_one_with_the_names_first():
    text = load_page().files["page.css"].content.decode()
    assert text.index(".uplot") < text.index("--paper") < text.index(".composer")


def test_the_version_is_of_the_content():
    assert re.fullmatch(r"[0-9a-f]{16}", load_page().version)
    assert load_page().files["catalogue.json"].content.startswith(b"{")
