"""What strangers wrote, on every page that shows it: it stays text, and runs nothing.

`open_page` fails a test for a dialog, an error on the console (reports of the policy are some), and
a call to another host.
"""

import copy

import pytest
import recorded
from playwright.sync_api import expect

EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script><a href="javascript:alert(3)">x</a>'
FREE = ("message", "reason", "text", "filename", "suffix", "problem")
"""The fields in which people and models write what they like."""
JOB, FAILED, FILE = f"ftjob-{9:024d}", f"ftjob-{5:024d}", f"file-{1:024d}"
SHOWN = {
    "jobs": "",
    "failed": f"jobs/{FAILED}",
    "job": f"jobs/{JOB}",
    "settings": f"jobs/{JOB}?tab=settings",
    "new": f"new?file={FILE}&name=x",
    "data": "data",
    "compare": f"compare?jobs={JOB},ftjob-{7:024d}",
}
QUICK = ("failed", "new")


def poisoned(value):
    """The same with hostile words at the end of all that is free."""
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: each + EVIL if name in FREE and isinstance(each, str) else poisoned(each)
        for name, each in value.items()
    }


@pytest.fixture
def hostile(serve, monkeypatch):
    """A server on which everybody has written what breaks careless pages."""
    for name in ("REPORT", "EVENTS"):
        monkeypatch.setattr(recorded, name, poisoned(copy.deepcopy(getattr(recorded, name))))
    rows = recorded.rows
    monkeypatch.setattr(recorded, "rows", lambda start, count: poisoned(rows(start, count)))
    files = [poisoned(recorded.file(n, name)) for n, name in ((1, "a.jsonl"), (2, "b.jsonl"))]
    with serve(jobs=poisoned(recorded.jobs()), files=files, admin=True) as (url, _):
        yield url


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SHOWN]
)
def test_what_strangers_wrote_stays_text(hostile, open_page, name):
    page = open_page(f"{hostile}/studio/{SHOWN[name]}")
    expect(page.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible()
    assert page.locator("img[src=x], main script, a[href^=javascript]").count() == 0


@pytest.mark.slow
def test_an_address_that_was_made_to_harm_fills_a_form_and_no_more(hostile, open_page):
    page = open_page(f"{hostile}/studio/new?file={FILE}&name={EVIL.replace(' ', '%20')}&start=1")
    expect(page.get_by_label("Name")).to_be_visible()
    assert page.locator("img[src=x], main script").count() == 0
