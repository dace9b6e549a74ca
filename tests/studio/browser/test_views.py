"""Every view, wide and narrow, light and dark: nothing overflows, nothing is out of reach."""

import pytest
import recorded
from playwright.sync_api import expect
from stand_in import ADAPTERS, StandIn

from gossamer.serving.core.stats import AdapterStatus

IDS = ",".join(f"ftjob-{number:024d}" for number in (7, 6, 9))
FILE = f"file-{1:024d}"
# The address, the heading, and a text that stands there once everything has come.
VIEWS = {
    "jobs": ("", "Jobs", "step 143 of 230"),
    "new": (f"new?file={FILE}&name=x", "New adapter", "230 steps"),
    "job": (f"jobs/ftjob-{9:024d}", "pirate", "The held-out loss still falls."),
    "comparison": (f"jobs/ftjob-{20:024d}", "quiz-all", "Answers to held-out prompts"),
    "starved": (f"jobs/ftjob-{19:024d}", "letters-2", "other work has the processors"),
    "export": (f"jobs/ftjob-{2:024d}", "Export of helpdesk aBcD", "poet-merged"),
    "proof": (f"jobs/ftjob-{1:024d}", "Proof of helpdesk aBcD", "Served as it was trained."),
    "failed": (f"jobs/ftjob-{5:024d}", "moody", "the loss became NaN"),
    "settings": (f"jobs/ftjob-{9:024d}?tab=settings", "pirate", "max_length"),
    "chat": ("chat?models=smollm2-135m,pirate", "Chat", "Ask something below"),
    "adapters": ("adapters", "Adapters", "in memory, ready, pinned"),
    "compare": (f"compare?jobs={IDS}", "Compare", "These runs differ in"),
    "data": ("data", "Data", "held-out.jsonl"),
    "server": ("server", "Server", "One pool of"),
    "keys": ("keys", "Keys", "without a file of keys"),
    "missing": ("no/such/view", "There is nothing here", "All jobs"),
}


THEIRS = AdapterStatus(
    name=f"ft:{recorded.MODEL}:alice:quiz:aBcDeF08", state="resident", kind="low-rank", rank=8,
    num_bytes=40_960, created=1_796_000_000,
)  # fmt: skip
QUICK = ("jobs", "new", "job", "chat", "adapters", "compare", "server")


def show(open_page, url, name, **options):
    path, heading, text = VIEWS[name]
    page = open_page(f"{url}/studio/{path}", **options)
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    expect(page.get_by_text(text).first).to_be_visible()
    return page


def faults(page, axe):
    """What axe finds wrong with a page; it must have looked at something."""
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:200]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@pytest.fixture(scope="module")
def shared():
    """One server for all tests that only look."""
    files = [recorded.file(1, "chats.jsonl"), recorded.file(2, "held-out.jsonl")]
    jobs = [*recorded.jobs(), *recorded.other_jobs()]
    with StandIn(jobs, files, (*ADAPTERS, THEIRS), admin=True).running() as url:
        yield url


def wider_than_the_screen(page):
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.mark.parametrize("name", QUICK)
def test_views_fit_and_are_accessible(shared, open_page, axe, name):
    number = list(VIEWS).index(name)
    page = show(open_page, shared, name, dark=number % 2 == 0, width=(380, 1280)[number % 3 == 0])
    assert wider_than_the_screen(page) <= 0
    assert faults(page, axe) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 760, 1280])
def test_views_in_all_sizes_and_colours(shared, open_page, axe, name, dark, width):
    page = show(open_page, shared, name, dark=dark, width=width)
    assert wider_than_the_screen(page) <= 0
    assert faults(page, axe) == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [380, 1280])
def test_what_is_rarely_done_is_within_the_screen_and_accessible(shared, open_page, axe, width):
    page = show(open_page, shared, "adapters", width=width)
    expect(page.get_by_role("row").filter(has_text="quiz aBcD")).to_contain_text("of alice")
    page.get_by_role("button", name="More for quiz aBcD").click()
    expect(page.get_by_role("button", name="Delete quiz aBcD")).to_be_in_viewport()
    assert wider_than_the_screen(page) <= 0
    assert faults(page, axe) == []


def test_what_fits_into_the_pool_is_told(shared, open_page):
    page = show(open_page, shared, "server")
    expect(page.get_by_text("240 KiB can be had at once")).to_be_visible()


def test_empty_views_say_what_to_do(serve, open_page):
    with serve(jobs=[], files=[], adapters=[]) as (url, _):
        page = open_page(f"{url}/studio/")
        expect(page.get_by_text("No jobs yet")).to_be_visible()
        page.get_by_role("link", name="Adapters").click()
        expect(page.get_by_text("No adapters yet")).to_be_visible()
        page.get_by_role("link", name="Compare").click()
        expect(page.get_by_text("Nothing to compare yet")).to_be_visible()
        page.get_by_role("link", name="Data").click()
        expect(page.get_by_text("No data yet")).to_be_visible()


def test_the_first_view_is_light(serve, open_page, browser):
    with serve() as (url, _):
        page = browser.new_page()
        sizes = []
        page.on("response", lambda response: sizes.append(response))
        page.goto(f"{url}/studio/")
        expect(page.get_by_text("step 143 of 230")).to_be_visible()
        assert len(sizes) <= 20, [response.url for response in sizes]
        files = [r for r in sizes if "/live" not in r.url]
        assert sum(len(response.body()) for response in files) <= 300_000
        page.close()


def test_numbers_of_a_chart_are_a_table_too(serve, open_page):
    with serve() as (url, _):
        page = show(open_page, url, "job")
        page.get_by_text("Show as table").click()
        table = page.get_by_role("region", name="Values of the chart")
        expect(table.get_by_role("columnheader", name="held out")).to_be_visible()
        expect(table.get_by_role("row")).not_to_have_count(1)
        chart = page.get_by_role("img", name="Training loss from")
        expect(chart).to_be_visible()
