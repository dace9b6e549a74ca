"""Runs side by side: whether that is fair, what seeds change, and what each has answered."""

import recorded
from playwright.sync_api import expect


def runs(*changes):
    """Finished runs, the first fields of which are a name, a method, a seed and a loss."""
    made = []
    for number, (name, method, seed, loss) in enumerate(changes, start=1):
        job = recorded.finished(number, name, method, loss)
        made.append({**job, "seed": seed, "validation_file": "file-held"})
    return made


def address(url, jobs):
    return f"{url}/studio/compare?jobs={','.join(job['id'] for job in jobs)}"


def test_seeds_of_a_method_are_one_point_with_a_bar(serve, open_page):
    jobs = runs(("a", "lora", 0, 1.3), ("a", "lora", 1, 1.5), ("b", "ia3", 0, 1.6))
    jobs += [{**runs(("b", "ia3", 1, 1.7))[0], "id": f"ftjob-{4:024d}"}]
    with serve(jobs=jobs) as (url, _):
        page = open_page(address(url, jobs))
        expect(page.get_by_text("a (2 seeds)").first).to_be_visible()
        expect(page.locator(".scatter circle")).to_have_count(2)
        expect(page.locator(".scatter .bar")).to_have_count(2)
        expect(page.get_by_text("seeds: yes")).to_be_visible()
        expect(page.get_by_text("These runs differ in")).to_have_count(0)


def test_what_makes_a_comparison_unfair_is_named(serve, open_page):
    jobs = runs(("a", "lora", 0, 1.3), ("b", "ia3", 1, 1.6))
    for job in jobs:
        job["validation_file"] = None
    with serve(jobs=jobs) as (url, _):
        page = open_page(address(url, jobs))
        expect(page.get_by_text("seeds: no")).to_be_visible()
        # A share that is held out is another one with another seed.
        expect(page.get_by_text("These runs differ in held-out rows, seeds:")).to_be_visible()


def test_all_answers_stand_beside_what_the_rows_say(serve, open_page):
    jobs = runs(("a", "lora", 0, 1.3), ("b", "ia3", 0, 1.6))
    with serve(jobs=jobs) as (url, _):
        page = open_page(address(url, jobs))
        table = page.get_by_role("region", name="Answers of the runs")
        expect(table.get_by_role("columnheader")).to_have_text(
            ["Prompt", "Answer in the rows", "Before training", "a step 220", "b step 220"]
        )
        row = table.get_by_role("row", name="Can you sing?")
        expect(row.get_by_text("Arr, aye!")).to_be_visible()
        expect(row.get_by_text("As an AI: Can you sing?")).to_be_visible()
        expect(row.get_by_text("Arr: Can you sing?")).to_have_count(2)


def test_both_pictures_are_kept_as_files(serve, open_page):
    jobs = runs(("a", "lora", 0, 1.3), ("b", "ia3", 0, 1.6))
    with serve(jobs=jobs) as (url, _):
        page = open_page(address(url, jobs))
        expect(page.locator(".scatter circle")).to_have_count(2)
        for button, name in zip(
            page.get_by_role("button", name="PNG").all(),
            ("compare-curves.png", "compare-costs.png"),
            strict=True,
        ):
            with page.expect_download() as kept:
                button.click()
            assert kept.value.suggested_filename == name
            assert kept.value.path().read_bytes().startswith(b"\x89PNG")
