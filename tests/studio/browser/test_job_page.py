"""One job: what it means in words, what the model answers on the way, what its folder holds."""

import pytest
import recorded
from playwright.sync_api import expect

RUNNING = f"jobs/ftjob-{9:024d}"


def rising(lines):
    """Make held-out losses lowest at step 40, and in the end far above what is trained."""
    for line in lines:
        if "eval_loss" in line:
            line["eval_loss"] = 2.0 + abs(line["step"] - 40) / 20
    return lines


def test_marks_and_verdict_are_said_in_words(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/{RUNNING}")
        expect(page.get_by_text("saved after step 50 and 100.")).to_be_visible()
        expect(page.get_by_text("went on from step 50 after a break.")).to_be_visible()
        verdict = page.locator(".verdict")
        expect(verdict).to_contain_text("The held-out loss still falls. It is 1.")
        expect(verdict).to_contain_text("times the training loss: what is learnt holds")


def test_a_loss_that_rose_names_its_best_step(serve, open_page, monkeypatch):
    told = [*recorded.EVENTS, recorded.event(9, "Checkpoint created at step 40", step=40)]
    monkeypatch.setattr(recorded, "EVENTS", told)
    falling = recorded.metrics
    monkeypatch.setattr(recorded, "metrics", lambda *args: rising(falling(*args)))
    with serve() as (url, _):
        page = open_page(f"{url}/studio/{RUNNING}")
        verdict = page.locator(".verdict")
        expect(verdict).to_contain_text(
            "The held-out loss rose since step 40: checkpoint 40 is the best."
        )
        expect(verdict).to_contain_text("the run learns its rows by heart")
        page.get_by_role("link", name="Use it").click()
        expect(page.get_by_role("tab", name="Checkpoints")).to_have_attribute(
            "aria-selected", "true"
        )


def test_answers_to_held_out_prompts_are_shown_as_they_come(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/{RUNNING}")
        section = page.get_by_role("region", name="What it answers to held-out prompts")
        expect(section.get_by_role("heading", name="Where do you live?")).to_be_visible()
        expect(section.get_by_text("step 140").first).to_be_visible()
        expect(section.get_by_text("step 20", exact=True)).to_have_count(0)
        section.get_by_role("button", name="All 3 prompts, 8 times").click()
        expect(section.get_by_text("step 20", exact=True).first).to_be_visible()
        server.state.advance(f"ftjob-{9:024d}", 20)
        expect(section.get_by_text("step 160").first).to_be_visible()


@pytest.mark.parametrize("admin", [True, False])
def test_the_log_is_a_tab_of_administrators_and_the_rows_are_one_of_all(serve, open_page, admin):
    with serve(admin=admin) as (url, _):
        page = open_page(f"{url}/studio/{RUNNING}")
        page.get_by_role("tab", name="Data report").click()
        expect(page.get_by_text("9 rows repeat another one word for word.")).to_be_visible()
        expect(page.get_by_text("Leave them out")).to_have_count(0)
        tab = page.get_by_role("tab", name="Log")
        expect(tab).to_have_count(int(admin))
        if admin:
            tab.click()
            expect(page.get_by_text("step 143: loss 1.21")).to_be_visible()


def test_the_curve_is_kept_as_a_picture(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/{RUNNING}")
        with page.expect_download() as kept:
            page.get_by_role("button", name="PNG").click()
        assert kept.value.suggested_filename == "pirate-curve.png"
        assert kept.value.path().read_bytes().startswith(b"\x89PNG")
