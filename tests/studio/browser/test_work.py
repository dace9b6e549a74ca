"""Comparisons, proofs and exports in the browser."""

import recorded
from playwright.sync_api import expect

MODEL = f"ft:{recorded.MODEL}:default:helpdesk:aBcDeF07"
QUIZ = {"suffix": "quiz", "methods": [{"method": "lora"}, {"method": "dora"}], "held_out": 0.1}


def test_a_comparison_is_one_row_and_its_runs_lie_over_one_another(serve, open_page, axe):
    running = recorded.comparison(
        1, "running", QUIZ, progress={"step": 60, "steps": 120, "train_loss": 1.3}
    )
    with serve(jobs=[running]) as (url, _):
        page = open_page(f"{url}/studio/")
        row = page.get_by_role("listitem").filter(has_text="quiz")
        expect(row.get_by_text("2 methods")).to_be_visible()
        expect(row.get_by_text("step 60 of 120")).to_be_visible()
        row.get_by_role("link", name="quiz", exact=True).click()
        table = page.get_by_role("region", name="Runs of the comparison")
        expect(table.get_by_role("row").filter(has_text="base model")).to_contain_text("1 of 10")
        expect(table.get_by_role("row").filter(has_text="dora")).to_contain_text("waits")
        expect(table.get_by_role("link", name="Chat with lora, seed 0")).to_be_visible()
        expect(table.get_by_role("button", name="Keep quiz-lora")).to_be_visible()
        expect(page.get_by_text("60 of 120")).to_be_visible()
        expect(page.get_by_text("3.14 GiB estimated")).to_be_visible()
        expect(page.get_by_text("14 min estimated")).to_be_visible()
        answers = page.get_by_role("region", name="Answers of the runs")
        first = answers.get_by_role("row").filter(has_text="Where do you live?")
        expect(first).to_contain_text("As an AI: Where do you live?")
        expect(first).to_contain_text("Arr: Where do you live?")
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        assert [each["id"] for each in found["violations"]] == []
        page.get_by_role("link", name="Open in Compare").click()
        expect(page.get_by_role("region", name="Answers of the runs")).to_contain_text("Arr: Can")
        expect(page.get_by_role("heading", level=1, name="Compare")).to_be_visible()
        runs = page.get_by_role("region", name="Figures of the runs")
        expect(runs.get_by_role("row").filter(has_text="lora").first).to_contain_text("1.31")


def test_what_all_runs_of_a_comparison_take_is_told_before_the_start(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}&methods=lora,dora&seeds=2")
        told = page.get_by_text("920 steps · in 4 runs · 612 rows to train on · 3.14 GiB")
        expect(told).to_contain_text("27 min of training")
        expect(page.get_by_text("memory is that of the largest")).to_be_visible()


def test_a_comparison_needs_rows_to_judge_by(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}&methods=lora,dora&held=0")
        expect(page.get_by_text("A comparison needs held-out rows")).to_be_visible()
        expect(page.get_by_role("button", name="Compare 2 methods")).to_be_disabled()


def test_more_is_done_by_the_keyboard_alone_and_escape_closes_it(serve, open_page):
    with serve(jobs=[recorded.finished(7, "helpdesk", "lora", 1.31)]) as (url, server):
        page = open_page(f"{url}/studio/jobs/ftjob-{7:024d}", width=380)
        more = page.get_by_role("button", name="More for helpdesk")
        more.press("Enter")
        verify = page.get_by_role("button", name="Verify helpdesk")
        expect(verify).to_be_in_viewport()
        page.keyboard.press("Escape")
        expect(verify).to_be_hidden()
        expect(more).to_be_focused()
        more.press("Enter")
        page.keyboard.press("Tab")
        expect(verify).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Proof of helpdesk")
        assert server.state.bodies == [{"model": MODEL}]


def test_a_result_is_exported_from_its_job_and_downloaded(serve, open_page):
    export = {"name": "poet-merged", "bytes": 270_000_000, "what": "merged model"}
    jobs = [
        recorded.finished(7, "helpdesk", "lora", 1.31),
        recorded.work(
            2, "succeeded", "export", MODEL, result={"export": {**export, "is_there": True}}
        ),
    ]
    with serve(jobs=jobs) as (url, server):
        page = open_page(f"{url}/studio/jobs/{jobs[0]['id']}")
        page.get_by_role("button", name="More for helpdesk").click()
        page.get_by_role("button", name="Merge helpdesk").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Export of helpdesk")
        assert server.state.bodies == [{"model": MODEL, "format": "merged"}]
        page.goto(f"{url}/studio/jobs/{jobs[1]['id']}")
        expect(page.get_by_role("main").get_by_text("poet-merged").first).to_be_visible()
        link = page.get_by_role("link", name="Download").first
        path = f"/studio/api/exports/{jobs[1]['id']}/content"
        expect(link).to_have_attribute("href", path)
        page.get_by_role("button", name="Delete poet-merged").click()
        page.get_by_role("button", name="Delete it").click()
        expect(page.get_by_text("poet-merged has been removed since.")).to_be_visible()
        expect(page.get_by_role("link", name="Download")).to_have_count(0)
