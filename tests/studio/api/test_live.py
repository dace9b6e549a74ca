"""What the stream of news tells: everything once, then what changes, and to whom."""

import asyncio
import json

import httpx
import pytest
from live_server import live
from studio_case import SetJobs

from gossamer.serving.http.settings import HttpSettings
from gossamer.studio.api import live_stream
from gossamer.studio.extension import page_extension

JOB = {"id": "ftjob-1", "status": "running", "created_at": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live_stream, "TICK_SECONDS", 0.01)


@pytest.fixture
def listen(make_engine):
    """Reads a stream step by step: `listen(news, topics, steps)` calls each step with what came
    last and reads on until an event of the name that it gives."""

    def listen(news, topics, steps, engine=None, **settings):
        engine = engine or make_engine()
        told = []

        async def run(address):
            url = f"http://{address[0]}:{address[1]}/studio/api/live?topics={topics}"
            async with httpx.AsyncClient(timeout=10) as client, client.stream("GET", url) as answer:
                assert answer.status_code == 200
                lines = answer.aiter_lines()
                for wanted in steps:
                    name = wanted if isinstance(wanted, str) else wanted()
                    told.append(await until(lines, name))

        async def until(lines, name):
            event = None
            async for line in lines:
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event == name:
                    return json.loads(line.removeprefix("data: "))
            raise AssertionError(f"the stream ended before '{name}'")

        with live(engine, extensions=(page_extension(news),), **settings) as address:
            asyncio.run(run(address))
        return told

    return listen


def test_a_stream_begins_with_who_is_there_and_all_jobs(listen):
    news = SetJobs()
    news.found = [JOB]
    session, jobs = listen(news, "jobs", ["session", "jobs"])
    assert session["model"] == "tiny"
    assert session["tenant"] == "default"
    assert not session["admin"]
    assert not session["has_keys"]
    assert jobs == {"data": [JOB], "removed": [], "all": True}


def test_only_what_changes_is_told_then(listen):
    news = SetJobs()
    other = {"id": "ftjob-2", "status": "queued", "created_at": 2}
    news.found = [JOB, other]

    def change():
        news.found = [{**JOB, "status": "succeeded"}, other]
        return "jobs"

    def remove():
        news.found = [other]
        return "jobs"

    _, changed, removed = listen(news, "jobs", ["jobs", change, remove])
    assert changed == {"data": [{**JOB, "status": "succeeded"}], "removed": [], "all": False}
    assert removed == {"data": [], "removed": ["ftjob-1"], "all": False}


def test_lines_of_metrics_come_once_and_again_when_a_resume_cut_them(listen):
    news = SetJobs()
    news.lines = {"ftjob-1": [{"step": 1}, {"step": 2}]}

    def more():
        news.lines = {"ftjob-1": [{"step": 1}, {"step": 2}, {"step": 3}]}
        return "job"

    def cut():
        news.lines, news.version = {"ftjob-1": [{"step": 1}, {"step": 2}]}, "2"
        return "job"

    first, added, again = listen(news, "job:ftjob-1", ["job", more, cut])
    assert first == {"id": "ftjob-1", "from": 0, "data": [{"step": 1}, {"step": 2}]}
    assert added == {"id": "ftjob-1", "from": 2, "data": [{"step": 3}]}
    assert again == {"id": "ftjob-1", "from": 0, "data": [{"step": 1}, {"step": 2}]}


def test_adapters_are_told_with_their_state(listen):
    (adapters,) = listen(SetJobs(), "adapters", ["adapters"])
    found = {adapter["id"]: adapter for adapter in adapters["data"]}
    assert found["pirate"]["state"] == "resident"
    assert found["pirate"]["num_bytes"] == 64


def test_figures_of_the_server_are_for_administrators(make_engine):
    """Without keys no one is one; a key of the command line is."""
    engine = make_engine()

    async def first_events(address, headers, seconds):
        url = f"http://{address[0]}:{address[1]}/studio/api/live?topics=server"
        found = []
        async with httpx.AsyncClient(timeout=seconds, headers=headers) as client:
            try:
                async with client.stream("GET", url) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("event: "):
                            found.append(line)
                        if "event: server" in found:
                            break
            except httpx.ReadTimeout:
                pass
        return found

    page = (page_extension(SetJobs()),)
    with live(engine, extensions=page) as address:
        assert asyncio.run(first_events(address, {}, 0.3)) == ["event: session"]
    with live(make_engine(), extensions=page, api_keys=("secret",)) as address:
        headers = {"Authorization": "Bearer secret"}
        told = asyncio.run(first_events(address, headers, 5))
        assert told == ["event: session", "event: server"]


def test_a_stream_ends_with_the_engine(make_engine):
    engine = make_engine()

    async def run(address):
        url = f"http://{address[0]}:{address[1]}/studio/api/live"
        async with httpx.AsyncClient(timeout=10) as client, client.stream("GET", url) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            engine.shutdown()
            return [line async for line in lines]

    with live(engine, extensions=(page_extension(SetJobs()),)) as address:
        asyncio.run(run(address))


@pytest.mark.parametrize("topics", ["news", "job:../etc", "jobs,job:", ",".join(["jobs"] * 21)])
def test_topics_that_there_are_not_are_refused(make_engine, call, topics):
    answer = call(make_engine(), "GET", f"/studio/api/live?topics={topics}")
    assert answer.status_code == 400
    assert "topic" in answer.json()["error"]["message"]


def test_without_a_key_nothing_is_told_where_one_is_needed(make_engine, call):
    settings = HttpSettings(api_keys=("secret",))
    answer = call(make_engine(), "GET", "/studio/api/live", settings=settings)
    assert answer.status_code == 401
    page = call(make_engine(), "GET", "/studio/jobs/x", settings=settings)
    assert page.status_code == 200, "the page itself is open, to show where to sign in"
