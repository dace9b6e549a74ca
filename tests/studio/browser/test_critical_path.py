"""From a file to a talk with what was learnt: five actions beside typing."""

import re

from playwright.sync_api import expect

ROWS = b'{"messages": [{"role": "user", "content": "hi"}]}\n'


def drop(page, name="chats.jsonl"):
    page.set_input_files(
        "input[type=file]", {"name": name, "mimeType": "application/jsonl", "buffer": ROWS}
    )


def test_from_a_file_to_a_talk(serve, open_page):
    with serve(jobs=[], files=[]) as (url, server):
        page = open_page(f"{url}/studio/new")
        actions = 0

        drop(page)
        actions += 1
        expect(page.get_by_text("610 rows")).to_be_visible()
        expect(page.get_by_label("Name")).to_have_value("chats")
        expect(page.get_by_text("230 steps · 612 rows to train on · 1.7 GiB")).to_be_visible()

        page.get_by_role("button", name="Start", exact=True).click()
        actions += 1
        expect(page.get_by_role("heading", level=1, name="chats")).to_be_visible()
        (body,) = server.state.bodies
        assert body["adapter"] == {"method": "lora"}
        assert body["training"] == {"eval_split": 0.1}
        assert body["suffix"] == "chats"
        assert body["model"] == "smollm2-135m"

        (job_id,) = server.state.jobs
        server.state.advance(job_id, 100)
        expect(page.get_by_text("100 of 230")).to_be_visible()
        expect(page).to_have_title("43 % chats · Job · Tune Studio")
        server.state.advance(job_id, 200)

        page.get_by_role("link", name="Chat with chats").click()
        actions += 1
        field = page.get_by_label("Message")
        field.fill("Who are you?")
        field.press("Enter")
        actions += 1
        expect(page.get_by_text("I live in the cloud")).to_be_visible()
        assert actions <= 5


def test_several_methods_are_started_as_one_comparison(serve, open_page):
    with serve(jobs=[]) as (url, server):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}&name=quiz")
        page.get_by_label("dora").check()
        page.get_by_label("ia3").check()
        page.get_by_role("button", name="Compare 3 methods").click()
        expect(page.get_by_role("heading", level=1, name="quiz")).to_be_visible()
        (body,) = server.state.bodies
        assert [each["method"] for each in body["methods"]] == ["lora", "dora", "ia3"]
        assert body["suffix"] == "quiz"
        assert (body["held_out"], body["seeds"]) == (0.1, [0])
        assert body["evaluation"] == {"score": "loss"}


def test_what_is_chosen_stands_in_the_address(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}")
        page.get_by_label("ia3").check()
        page.get_by_role("button", name="Raise max_length").click()
        page.get_by_label("Leave them out", exact=True).check()
        page.get_by_label("Leave them out (duplicates)").check()
        page.get_by_label("Leave them out (near-duplicates)").check()
        page.get_by_label("Name").fill("mine")
        page.reload()
        expect(page.get_by_label("Name")).to_have_value("mine")
        expect(page.get_by_label("ia3")).to_be_checked()
        page.get_by_role("button", name="Compare 2 methods").click()
        expect(page.get_by_role("heading", level=1, name="mine")).to_be_visible()
        training = server.state.bodies[0]["training"]
        assert training == {
            "max_length": 1472,
            "skip_bad_rows": True,
            "leave_out": ["duplicates", "near-duplicates"],
        }


def test_rows_are_looked_at_one_by_one_and_those_with_a_problem_at_once(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}")
        expect(page.locator("mark")).to_have_text("Aboard the Sloop, arr! (1)")
        page.get_by_role("button", name="Next row").click()
        expect(page.locator("mark")).to_have_text("Aboard the Sloop, arr! (2)")
        page.get_by_label("Number of the row").fill("300")
        page.get_by_label("Number of the row").press("Enter")
        expect(page.locator("mark")).to_have_text("Aboard the Sloop, arr! (300)")
        page.get_by_text("Show them").first.click()
        page.get_by_role("button", name="line 17").click()
        expect(page.get_by_text("Row 17 cannot be used.")).to_be_visible()


def test_a_file_is_looked_at_again(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/data")
        page.get_by_role("button", name="Look at chats.jsonl").click()
        expect(page.get_by_text("9 rows repeat another one word for word.")).to_be_visible()
        expect(page.locator("mark")).to_have_text("Aboard the Sloop, arr! (1)")
        expect(page.get_by_text("14 rows longer than 1024 tokens")).to_be_visible()
        expect(page.get_by_text("Leave them out")).to_have_count(0)
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_text("9 rows repeat")).to_have_count(0)


def test_rows_that_are_held_out_too_are_left_out(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}&held=file-{2:024d}&name=x")
        expect(page.get_by_text("3 rows ask what a held-out row asks")).to_be_visible()
        page.get_by_label("Leave them out (held-out)").check()
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.get_by_text("Training loss").first).to_be_visible()
        assert server.state.bodies[0]["training"] == {"leave_out": ["held-out"]}
        # What is held out of a file of its own cannot be left out where there is none.
        page.goto(f"{url}/studio/new?file=file-{1:024d}&held=file-{2:024d}&t.leave_out=held-out")
        page.get_by_label("None").check()
        expect(page).not_to_have_url(re.compile("leave_out"))


def test_opening_an_address_starts_nothing(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}&methods=lora&name=x&start=1")
        expect(page.get_by_text("230 steps")).to_be_visible()
        assert server.state.bodies == []


def test_settings_of_a_method_go_into_the_job(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/new?file=file-{1:024d}&name=x")
        page.get_by_text("Settings of lora").click()
        rank = page.get_by_label("rank", exact=True)
        expect(rank).to_have_value("16")
        rank.fill("4")
        rank.press("Tab")
        page.get_by_label("target_modules").fill("[q_proj, v_proj]")
        page.get_by_label("target_modules").press("Tab")
        page.get_by_text("The same by curl").click()
        expect(page.get_by_text('"rank": 4')).to_be_visible()
        page.get_by_role("button", name="Command line").click()
        expect(page.get_by_text("--set rank=4")).to_be_visible()
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.get_by_role("heading", level=1, name="x")).to_be_visible()
        assert server.state.bodies[0]["adapter"] == {
            "method": "lora",
            "rank": 4,
            "target_modules": ["q_proj", "v_proj"],
        }


def test_what_the_server_refuses_is_said_in_its_words(serve, open_page):
    with serve() as (url, server):
        page = open_page(
            f"{url}/studio/new?file=file-{1:024d}&name=x&t.learning_rate=2", expected=("400",)
        )
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.get_by_role("alert")).to_have_text(
            "setting 'learning_rate' = 2: must be at most 1"
        )
        assert server.state.bodies == []


def test_a_file_that_cannot_be_used_is_said_in_the_servers_words(serve, open_page):
    with serve(files=[]) as (url, _):
        page = open_page(f"{url}/studio/new", expected=("400",))
        drop(page, "photo.png")
        expect(page.get_by_role("alert")).to_have_text("photo.png: send .jsonl, .json or .csv")


def test_who_has_no_rows_tries_with_those_of_the_page(serve, open_page):
    with serve(files=[]) as (url, server):
        page = open_page(f"{url}/studio/new")
        page.get_by_role("button", name="Try with example rows").click()
        expect(page.get_by_label("Name")).to_have_value("pirate")
        (file,) = server.state.files.values()
        assert file["filename"] == "pirate.jsonl"
        assert file["bytes"] > 2000
