"""A page that stays open: jobs change under it, the server goes and comes, tabs share a stream."""

import re

import pytest
import recorded
from playwright.sync_api import expect
from stand_in import StandIn

PIRATE = f"ftjob-{9:024d}"


def test_a_job_is_followed_paused_and_stopped(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/")
        expect(page.get_by_text("step 143 of 230")).to_be_visible()
        server.state.advance(PIRATE, 10)
        expect(page.get_by_text("step 153 of 230")).to_be_visible()
        page.get_by_role("button", name="Pause pirate").click()
        expect(page.get_by_text("paused, step 153 of 230")).to_be_visible()
        page.get_by_role("button", name="Resume pirate").click()
        page.get_by_role("button", name="Stop pirate").click()
        page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
        assert server.state.jobs[PIRATE]["status"] == "running"
        page.get_by_role("button", name="Stop pirate").click()
        page.get_by_role("button", name="Stop it").click()
        expect(page.get_by_role("link", name="Again: pirate")).to_be_visible()
        assert server.state.jobs[PIRATE]["status"] == "cancelled"


def test_the_curve_grows_and_a_reload_shows_the_same(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/jobs/{PIRATE}?x=tokens")
        chart = page.get_by_role("img", name=re.compile("over 143 steps"))
        expect(chart).to_be_visible()
        server.state.advance(PIRATE, 17)
        grown = page.get_by_role("img", name=re.compile("over 160 steps"))
        expect(grown).to_be_visible()
        said = grown.get_attribute("aria-label")
        page.reload()
        expect(page.get_by_role("img", name=said)).to_be_visible()


def test_a_server_that_goes_and_comes_is_told_and_found_again(serve, open_page):
    with serve(keep_pages=True) as (url, _):
        page = open_page(f"{url}/studio/", expected=("ERR_",))
        expect(page.get_by_text("step 143 of 230")).to_be_visible()
        port = int(url.rpartition(":")[2])
    expect(page.get_by_text("The server does not answer.")).to_be_visible()
    expect(page.get_by_text("step 143 of 230")).to_be_visible()
    later = StandIn(jobs=recorded.jobs())
    later.state.advance(PIRATE, 50)
    with later.running(port):
        expect(page.get_by_text("step 193 of 230")).to_be_visible()
        expect(page.get_by_text("The server does not answer.")).to_have_count(0)


@pytest.mark.slow
def test_two_tabs_share_one_stream_and_the_second_goes_on_alone(serve, open_page):
    with serve() as (url, server):
        first = open_page(f"{url}/studio/")
        expect(first.get_by_text("step 143 of 230")).to_be_visible()
        second = first.context.new_page()
        streams = []
        second.on("request", lambda r: streams.append(r.url) if "/api/live" in r.url else None)
        second.goto(f"{url}/studio/jobs/{PIRATE}")
        expect(second.get_by_role("img", name=re.compile("over 143 steps"))).to_be_visible()
        assert streams == [], "the first tab tells it"
        server.state.advance(PIRATE, 7)
        expect(second.get_by_role("img", name=re.compile("over 150 steps"))).to_be_visible()
        first.close()
        server.state.advance(PIRATE, 10)
        expect(second.get_by_role("img", name=re.compile("over 160 steps"))).to_be_visible()
        assert len(streams) == 1


def test_keys_lead_everywhere_but_not_while_typing(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/")
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text("Jobs")
        page.keyboard.press("g")
        page.keyboard.press("a")
        expect(heading).to_have_text("Adapters")
        expect(heading).to_be_focused()
        expect(page.get_by_text("in memory, ready")).to_be_visible()
        page.keyboard.press("/")
        filter_field = page.get_by_label("Filter")
        expect(filter_field).to_be_focused()
        page.keyboard.type("gn")
        expect(heading).to_have_text("Adapters")
        expect(filter_field).to_have_value("gn")
        heading.click()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("n")
        expect(heading).to_have_text("New adapter")
        page.go_back()
        expect(heading).to_have_text("Adapters")


@pytest.mark.slow
def test_the_theme_is_kept(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/")
        page.get_by_label("Dark").check()
        colour = "getComputedStyle(document.documentElement).backgroundColor"
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.evaluate(colour) == "rgb(22, 24, 26)"
        page.reload()
        expect(page.get_by_label("Dark")).to_be_checked()
        assert page.evaluate(colour) == "rgb(22, 24, 26)"
