"""Bodies that somebody made up: an answer, or an error in OpenAI's shape, and never a surprise."""

import asyncio
import itertools
import json
import logging
from collections import Counter

import httpx
import pytest
from engine_case import check_idle, start
from mutate_body import hostile_body
from rig import ErrorLog
from seeds import seeds
from verdict import events, problem_of

from gossamer.serving.http.app import create_app
from gossamer.serving.http.settings import HttpSettings

from tiny import make_lora

AT_ONCE = 10
NEIGHBOUR = {"prompt": "Tell me more.", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    make_lora(folder / "lora", tiny_model, rank=4)
    make_lora(folder / "smt", tiny_model, rank=2, seed=3)
    engine = start(tiny_model, folder, num_blocks=300, max_context=288)
    yield engine
    engine.shutdown()


@pytest.fixture
def errors():
    handler = ErrorLog()
    logging.getLogger("gossamer").addHandler(handler)
    yield handler.found
    logging.getLogger("gossamer").removeHandler(handler)


@pytest.mark.parametrize("count", [300, pytest.param(30_000, marks=pytest.mark.slow)])
def test_every_body_gets_an_answer_or_an_error_of_its_own(engine, errors, count):
    app = create_app(engine, HttpSettings(max_body_mib=0.5, max_choices=8))
    statuses = asyncio.run(_run(app, engine.model_name, errors, count))
    check_idle(engine)
    if count == statuses.total():
        assert statuses[200] > count / 20
        assert statuses[400] > count / 5


async def _run(app, base, errors, count):
    transport = httpx.ASGITransport(app=app)
    statuses = Counter()
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        alone = {name: await _stream(client, name) for name in (base, "lora")}
        bodies = (hostile_body([base, "lora", "smt"], seed) for seed in seeds(count))
        while group := list(itertools.islice(bodies, AT_ONCE)):
            streams = [asyncio.create_task(_stream(client, name)) for name in alone]
            replies = await asyncio.gather(*(_send(client, body) for body in group))
            told = "\n".join(map(str, group))
            assert [await each for each in streams] == list(alone.values()), told
            for body, reply in zip(group, replies, strict=True):
                statuses[reply.status_code] += 1
                problem = problem_of(reply.status_code, reply.headers["content-type"], reply.text)
                assert problem is None, f"{problem}: {body}\n{reply.text[:500]}"
            assert not errors, f"{errors}\n{told}"
    return statuses


async def _send(client, body):
    headers = {name: value.encode() for name, value in body.headers.items()}
    return await client.post(body.path, content=body.content, headers=headers, timeout=120)


async def _stream(client, name):
    reply = await client.post("/v1/completions", json={"model": name, "stream": True, **NEIGHBOUR})
    assert reply.status_code == 200, reply.text
    return [json.loads(each)["choices"][0]["text"] for each in events(reply.text)]
