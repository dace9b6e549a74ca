import os
import shutil
from contextlib import contextmanager
from importlib.resources import files
from urllib.parse import urlsplit

import pytest
import recorded
from stand_in import StandIn

BROWSERS = ("chromium", "google-chrome", "chromium-browser")

PATIENCE = 10_000  # milliseconds; a machine may be busy


@pytest.fixture(scope="module")
def browser():
    """One Chromium for a file. Skips where there is none, but in the checks of a change.

    Not for the session: while it lives this thread has an event loop that runs, and tests of other
    folders start loops of their own.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        advice = "no Chromium is installed: apt-get install chromium fonts-dejavu-core"
        if os.environ.get("CI") == "true":
            pytest.fail(advice)
        pytest.skip(advice)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"], chromium_sandbox=False
        )
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core."""
    return files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


@pytest.fixture
def contexts():
    """The browser's contexts of a test, each with pages of its own."""
    return []


@pytest.fixture
def serve(contexts):
    """Runs a stand-in server with recorded jobs: `with serve() as (url, stand_in)`.

    Pages are closed before it goes, unless they are to see that (`keep_pages`).
    """

    @contextmanager
    def serve(*, keep_pages=False, **options):
        options = {
            "jobs": recorded.jobs(),
            "files": [recorded.file(1, "chats.jsonl"), recorded.file(2, "held-out.jsonl")],
            **options,
        }
        stand_in = StandIn(**options)
        with stand_in.running() as url:
            yield url, stand_in
            while contexts and not keep_pages:
                contexts.pop().close()

    return serve


@pytest.fixture
def open_page(browser, contexts):
    """A page in a context of its own, which fails the test for whatever should not happen:

    errors on the console, reports of the policy, calls to other hosts, dialogs of scripts.
    """
    wrong = []

    def open_page(url, *, dark=False, width=1280, expected=()):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        host = urlsplit(url).netloc
        context.route(
            lambda address: urlsplit(address).netloc != host,
            lambda route: (wrong.append(f"a call to {route.request.url}"), route.abort()),
        )
        page = context.new_page()

        def on_console(message):
            text = f"{message.text} {message.location.get('url', '')}"
            if message.type == "error" and not any(each in text for each in expected):
                wrong.append(f"console: {text}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
        page.goto(url)
        return page

    yield open_page
    while contexts:
        contexts.pop().close()
    assert wrong == []
