"""`GET /v1/models` by pages: the same over an engine that lists all and one that lists a part."""

import asyncio

import pytest
from commands.keys import key_maker
from fake_engine import FakeEngine

from gossamer.errors import AdapterReadError
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http import catalogue as module
from gossamer.serving.http.catalogue import MAX_LISTED
from gossamer.serving.http.settings import HttpSettings

REFUSED = {3, 4, 10, 24}
NAMES = [f"a{number:02}" for number in range(25)]
SERVED = [name for number, name in enumerate(NAMES) if number not in REFUSED]


def status(number):
    if number in REFUSED:
        return AdapterStatus(name=NAMES[number], state="refused", problem="weights hold NaN")
    return AdapterStatus(name=NAMES[number], state="registered")


class PagedFake(FakeEngine):
    """Lists parts, and counts what was looked at; never all."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.looks, self.looked_at = 0, 0
        self.error = None

    def adapters(self):
        raise AssertionError("a list of all was made")

    def adapters_near(self, model):
        return self._adapters[:30]

    def adapters_after(self, name, limit):
        if self.error is not None:
            raise self.error
        found = [each for each in self._adapters if each.name > name][:limit]
        self.looks += 1
        self.looked_at += len(found)
        return found


@pytest.fixture(params=[FakeEngine, PagedFake])
def engine(request, tokenizer):
    """An engine with 25 adapters, four of which are refused."""
    engine = request.param(tokenizer, adapters=[status(number) for number in range(25)])
    yield engine
    engine.shutdown()


@pytest.fixture
def pages(ask):
    """All pages of a list, as a client asks for them one after another."""

    def pages(engine, **query):
        found, after = [], {}
        while True:
            page = ask(engine, "GET", "/v1/models", params={**query, **after}).json()
            found.append(page)
            if not page["has_more"]:
                return found
            after = {"after": page["last_id"]}

    return pages


def ids(page):
    return [each["id"] for each in page["data"]]


def test_without_parameters_all_are_listed(engine, ask):
    page = ask(engine, "GET", "/v1/models").json()
    assert ids(page) == ["tiny", *SERVED]
    assert [each["id"] for each in page["refused"]] == [NAMES[number] for number in sorted(REFUSED)]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("tiny", SERVED[-1], False)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 21, 22, 100])
def test_pages_together_are_the_whole_list_with_each_one_once(engine, pages, limit):
    found = pages(engine, limit=limit)
    assert [name for page in found for name in ids(page)] == ["tiny", *SERVED]
    assert all(len(page["data"]) == limit for page in found[:-1])
    refused = [each["id"] for page in found for each in page["refused"]]
    assert refused == [NAMES[number] for number in sorted(REFUSED)]
    assert all(page["last_id"] == ids(page)[-1] for page in found)


def test_a_page_goes_on_after_a_name_that_has_gone(engine, ask):
    page = ask(engine, "GET", "/v1/models", params={"after": "a05x", "limit": 2}).json()
    assert ids(page) == ["a06", "a07"]
    last = ask(engine, "GET", "/v1/models", params={"after": "zz"}).json()
    assert (last["data"], last["first_id"], last["has_more"]) == ([], None, False)


@pytest.mark.parametrize("limit", ["0", "-1", "ten", "1.5", "10001", "", "٣"])
def test_a_limit_that_is_no_number_in_range_is_refused(engine, ask, limit):
    reply = ask(engine, "GET", "/v1/models", params={"limit": limit})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "limit")
    assert f"1 to {MAX_LISTED}" in error["message"]


@pytest.fixture
def paged(tokenizer):
    """An engine that lists parts, with more adapters than an answer may have."""
    many = [AdapterStatus(name=f"n{number:05}", state="registered") for number in range(12_000)]
    engine = PagedFake(tokenizer, adapters=many)
    yield engine
    engine.shutdown()


def test_an_answer_is_bounded_and_no_more_is_looked_at_than_it_takes(paged, ask):
    page = ask(paged, "GET", "/v1/models").json()
    assert len(page["data"]) == MAX_LISTED
    assert page["has_more"]
    assert paged.looked_at <= MAX_LISTED + module.LOOKED_AT
    paged.looked_at = 0
    few = ask(paged, "GET", "/v1/models", params={"limit": 3, "after": "n07000"}).json()
    assert ids(few) == ["n07001", "n07002", "n07003"]
    assert paged.looked_at == 4


def test_a_page_is_used_again_for_a_while_that_grows_with_what_it_took(paged, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def render(page):
        now[0] += 0.5
        return [each.name for each in page.adapters]

    async def scenario():
        catalogue = module.Catalogue(paged)
        one, other = (module.AdapterPageAsk(viewer, "", 2) for viewer in ("one", "other"))
        try:
            for ask in (one, one, other):
                assert await catalogue.page(ask, list, render) == ["n00000", "n00001"]
            assert paged.looks == 2, "each viewer has an own page"
            now[0] += 5.1
            await catalogue.page(one, list, render)
            assert paged.looks == 3
            for number in range(3 * module.MAX_RENDERED):
                await catalogue.page(module.AdapterPageAsk(number, "", 1), list, render)
            assert len(catalogue._pages) <= module.MAX_RENDERED
        finally:
            catalogue.close()

    asyncio.run(scenario())


def test_a_tenant_pages_through_what_it_may_see(paged, ask, tmp_path, capsys):
    keys = key_maker(tmp_path / "keys.yaml", capsys)
    headers = {"Authorization": f"Bearer {keys('alice', '--adapter', 'n*77')}"}
    call = {"headers": headers, "settings": HttpSettings(keys=keys.path)}
    after, found = {}, []
    while True:
        query = {"limit": 50, **after}
        page = ask(paged, "GET", "/v1/models", params=query, **call).json()
        found += ids(page)
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert found == ["tiny", *(f"n{number:05}" for number in range(77, 12_000, 100))]


def test_an_unknown_name_has_no_list_of_all_made(paged, ask):
    body = {"model": "n0001", "prompt": "x"}
    reply = ask(paged, "POST", "/v1/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "did you mean 'n000" in reply.json()["error"]["message"]


def test_a_catalog_that_cannot_be_asked_is_to_be_tried_again(paged, ask):
    paged.error = AdapterReadError("the catalog of adapters cannot be asked now; try again")
    reply = ask(paged, "GET", "/v1/models")
    assert reply.status_code == 503
    assert "try again" in reply.json()["error"]["message"]
