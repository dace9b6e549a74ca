"""A talk with several at once: side by side, safe, stopped, remembered."""

import pytest
import recorded
from playwright.sync_api import expect

ALL = "smollm2-135m,pirate,helpdesk,poet"


def ask(page, text="Where do you live?"):
    field = page.get_by_label("Message")
    field.fill(text)
    field.press("Enter")


def answer_of(page, name):
    return page.get_by_role("region", name=f"Answer of {name}")


def test_answers_stand_side_by_side_and_errors_stay_in_their_column(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/chat?models={ALL}")
        ask(page)
        expect(answer_of(page, "smollm2-135m")).to_contain_text("I live in the cloud")
        expect(answer_of(page, "pirate")).to_contain_text("Aboard the Sloop")
        expect(answer_of(page, "helpdesk").locator("pre")).to_have_text("print('ticket')")
        expect(answer_of(page, "poet")).to_contain_text("Roses are")
        expect(answer_of(page, "poet")).to_contain_text("not finite")
        expect(answer_of(page, "pirate")).to_contain_text("tokens")
        assert len(server.engine.submitted) == 4


def test_a_question_of_the_held_out_rows_is_asked_by_one_click(serve, open_page):
    with serve(jobs=[recorded.finished(7, "h", "lora", 1.3) | {"alias": "helpdesk"}]) as served:
        url, server = served
        page = open_page(f"{url}/studio/chat?models=smollm2-135m,helpdesk")
        page.get_by_role("button", name="What do you eat?", exact=True).click()
        expect(answer_of(page, "smollm2-135m")).to_contain_text("I live in the cloud")
        expect(answer_of(page, "helpdesk")).to_contain_text("Please open a ticket")
        expect(page.get_by_role("button", name="What do you eat?")).to_have_count(0)
        assert len(server.engine.submitted) == 2


def test_what_a_model_writes_becomes_no_markup(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/chat?models=pirate")
        ask(page)
        said = answer_of(page, "pirate")
        expect(said).to_contain_text("<img src=x onerror=alert(1)>")
        expect(said.locator("strong")).to_have_text("Sloop")
        expect(said.locator("img")).to_have_count(0)
        expect(said.locator("a")).to_have_count(0)


def test_an_answer_can_be_stopped_by_a_key(serve, open_page):
    with serve(delay=0.4) as (url, server):
        page = open_page(f"{url}/studio/chat?models=smollm2-135m,pirate")
        ask(page)
        expect(answer_of(page, "pirate")).to_contain_text("Aboard")
        page.keyboard.press("Escape")
        expect(answer_of(page, "pirate")).to_contain_text("Stopped.")
        server.engine.wait_idle()
        assert server.engine.reasons["cancelled"] == 2


@pytest.mark.slow
def test_each_column_goes_on_from_its_own_answers(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/chat?models=smollm2-135m,helpdesk&system=Be+brief")
        ask(page, "one")
        expect(answer_of(page, "helpdesk")).to_contain_text("tokens")
        ask(page, "two")
        expect(answer_of(page, "helpdesk")).to_have_count(2)
        expect(answer_of(page, "helpdesk").last).to_contain_text("tokens")
        lengths = [len(request.prompt_token_ids) for request in server.engine.submitted]
        assert lengths[0] == len("Be briefone")
        # The answers of a column are in its own prompt alone, so these differ.
        assert lengths[2] != lengths[3]
        assert min(lengths[2:]) > lengths[0]


def test_models_are_added_blended_and_taken_away(serve, open_page):
    with serve() as (url, server):
        page = open_page(f"{url}/studio/chat")
        page.get_by_label("Add a model").select_option("pirate")
        page.get_by_text("Blend", exact=True).click()
        page.get_by_label("Weight of adapter 1").fill("0.7")
        page.get_by_label("Weight of adapter 2").fill("0.3")
        page.get_by_role("button", name="Add the blend").click()
        page.get_by_role("button", name="Take pirate away").click()
        ask(page)
        expect(answer_of(page, "smollm2-135m")).to_contain_text("tokens")
        names = [request.adapter for request in server.engine.submitted]
        assert names == [None, "pirate:0.7+helpdesk:0.3"]


@pytest.mark.slow
def test_a_talk_is_remembered_by_this_browser_and_can_be_forgotten(serve, open_page):
    with serve() as (url, _):
        page = open_page(f"{url}/studio/chat?models=smollm2-135m,pirate")
        ask(page)
        expect(answer_of(page, "pirate")).to_contain_text("tokens")
        page.get_by_role("button", name="pirate is better").click()
        page.get_by_role("button", name="New chat").click()
        page.get_by_text("earlier, kept in this browser").click()
        page.get_by_role("button", name="Where do you live?", exact=True).click()
        expect(answer_of(page, "pirate")).to_contain_text("Aboard the Sloop")
        page.get_by_role("button", name="New chat").click()
        page.get_by_text("earlier, kept in this browser").click()
        page.get_by_role("button", name="Forget: Where do you live?").click()
        expect(page.get_by_text("earlier, kept in this browser")).to_have_count(0)
