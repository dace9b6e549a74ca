"""Many calls at once, of all kinds."""

import asyncio
import random

import httpx
from live_server import live

from gossamer.errors import ServingError


def script(request):
    """Depends on the prompt, so that an answer at the wrong address is seen."""
    length = len(request.prompt_token_ids)
    if length == 13:
        return ["a", ServingError("unlucky")]
    return [f"{length}."] * 10


async def one(client, number):
    length = number % 20 + 1
    is_stream = number % 2 == 0
    body = {"model": "tiny", "prompt": [5] * length, "max_tokens": 5, "stream": is_stream}
    body["n"] = number % 3 + 1
    if number % 10 == 7:
        body["temperature"] = 7
    response = await client.post("/v1/completions", json=body)
    return number, length, is_stream, response


def check(number, length, is_stream, response):
    if number % 10 == 7:
        assert response.status_code == 400
    elif length == 13 and is_stream:
        assert "unlucky" in response.text
    elif length == 13:
        assert response.status_code == 500
    elif is_stream:
        assert response.status_code == 200
        assert response.text.count(f'"{length}."') == 5 * (number % 3 + 1)
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        texts = [choice["text"] for choice in response.json()["choices"]]
        assert texts == [f"{length}." * 5] * (number % 3 + 1)


def test_two_hundred_calls_at_once(make_engine):
    engine = make_engine(script=script, delay=0.002)

    async def run(address):
        limits = httpx.Limits(max_connections=200)
        base_url = f"http://{address[0]}:{address[1]}"
        async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(one(client, number) for number in range(200)))

    with live(engine) as address:
        answers = asyncio.run(run(address))
        engine.wait_idle()
    assert len(answers) == 200
    for answer in answers:
        check(*answer)
    assert set(engine.finals.values()) == {1}
    assert len(engine.finals) == len(engine.submitted)


def test_many_clients_that_leave_at_random(make_engine):
    engine = make_engine(script=lambda request: ["x"] * 100, delay=0.002)
    rng = random.Random(0)

    async def leave(client, number):
        body = {"model": "tiny", "prompt": "a", "max_tokens": 100, "stream": number % 2 == 0}
        call = asyncio.ensure_future(client.post("/v1/completions", json=body))
        await asyncio.wait({call}, timeout=rng.uniform(0.0, 0.4))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def run(address):
        limits = httpx.Limits(max_connections=100)
        base_url = f"http://{address[0]}:{address[1]}"
        async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=60) as client:
            await asyncio.gather(*(leave(client, number) for number in range(100)))

    with live(engine) as address:
        asyncio.run(run(address))
        engine.wait_idle()
    assert len(engine.cancelled) == len(set(engine.cancelled))
    assert set(engine.finals.values()) <= {1}
    assert len(engine.finals) == len(engine.submitted)
