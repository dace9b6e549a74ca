"""Hundreds of random requests over HTTP to the real engine on a tiny model.

Good ones, wrong ones, clients that leave and clients that speak nonsense: each gets exactly one
answer or error, and afterwards the pool is as before.
"""

import asyncio
import json
import random
import time
from collections import Counter

import pytest
from live_server import live

from gossamer.serving.engine.build import build_engine
from gossamer.serving.settings import ServeSettings

from tiny import make_lora

NUM_CLIENTS = 40
BLOCK_BYTES = 12288
RANKS = (1, 2, 3, 4, 8, 16)


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    for seed, rank in enumerate(RANKS):
        make_lora(root / f"rank-{rank}", tiny_model, rank=rank, seed=seed)
    make_lora(root / "dora", tiny_model, rank=4, use_dora=True)
    truncated = make_lora(root / "truncated", tiny_model, rank=4) / "adapter_model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    return root


@pytest.fixture(scope="module")
def engine(tiny_model, adapters):
    """Memory for a few of the adapters at a time, so that they come and go."""
    settings = ServeSettings(
        model=str(tiny_model),
        adapters=adapters,
        memory_gib=36 * BLOCK_BYTES / 1024**3,
        max_batch_tokens=64,
        max_running=16,
        max_waiting=80,
        threads=1,
    )
    engine = build_engine(settings)
    yield engine
    engine.shutdown()


def random_call(rng, base):
    """A body and the statuses that may answer it."""
    body = {
        "model": rng.choice([base, *(f"rank-{rank}" for rank in RANKS)]),
        "prompt": [rng.randrange(3, 259) for _ in range(rng.randrange(1, 60))],
        "max_tokens": rng.randrange(1, 25),
        "temperature": rng.choice([0, 0.7, 1.5]),
        "stream": rng.random() < 0.5,
        "n": rng.choice([1, 1, 1, 3]),
    }
    wrong = {
        "model": ("rank-9", 404),
        "prompt": ([5] * 600, 400),
        "max_tokens": (-1, 400),
        "temperature": (-1, 400),
        "top_p": (7, 400),
        "tools": ([{"type": "function"}], 400),
        "no_such_field": (1, 400),
    }
    roll = rng.random()
    if roll < 0.15:
        field = rng.choice(list(wrong))
        body[field], status = wrong[field]
        return body, {status}
    if roll < 0.2:
        body["model"] = rng.choice(["dora", "truncated"])
        return body, {422, 429}
    return body, {200, 429}


HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def talk(address, payload, *, leave_after):
    """Send bytes, read the whole reply; None if the client left before it came."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        head = f"{HEAD}Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + payload)
        await writer.drain()
        if leave_after is None:
            return await asyncio.wait_for(reader.read(), 60)
        await asyncio.sleep(leave_after)
        return None
    finally:
        writer.close()


async def nonsense(address, rng):
    """What is no HTTP, or stops in the middle."""
    _, writer = await asyncio.open_connection(*address)
    writer.write(rng.choice([b"\x00\x01\x02\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nConte"]))
    await writer.drain()
    writer.close()


def check(reply, body, allowed):
    """One whole answer of an allowed status; returns the status."""
    head, _, rest = reply.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in allowed, (status, body, rest[:300])
    if status != 200:
        assert b'"error"' in rest
    if status == 429:
        assert b"retry-after" in head.lower()
    elif status == 200 and body["stream"]:
        assert rest.count(b"[DONE]") == 1
        assert rest.count(b'"finish_reason":"') == body["n"], rest[-500:]
    elif status == 200:
        start, end = rest.find(b"{"), rest.rfind(b"}") + 1
        choices = json.loads(rest[start:end])["choices"]
        assert [choice["index"] for choice in choices] == list(range(body["n"]))
        assert all(choice["finish_reason"] in ("stop", "length") for choice in choices)
    return status


async def client(address, base, numbers, outcomes):
    for number in numbers:
        rng = random.Random(number)
        body, allowed = random_call(rng, base)
        kind = rng.random()
        if kind < 0.05:
            await nonsense(address, rng)
            outcomes["nonsense"] += 1
        elif kind < 0.2:
            leave_after = rng.uniform(0, 0.3)
            await talk(address, json.dumps(body).encode(), leave_after=leave_after)
            outcomes["left"] += 1
        else:
            reply = await talk(address, json.dumps(body).encode(), leave_after=None)
            outcomes[check(reply, body, allowed)] += 1


async def all_clients(address, base, count):
    outcomes = Counter()
    numbers = iter(range(count))
    await asyncio.gather(*(client(address, base, numbers, outcomes) for _ in range(NUM_CLIENTS)))
    return outcomes


@pytest.mark.parametrize("count", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_requests(engine, count):
    before = engine.stats()
    assert before.blocks_free == before.blocks_total
    with live(engine) as address:
        outcomes = asyncio.run(all_clients(address, engine.model_name, count))
        wait_until_idle(engine)
        reply = asyncio.run(one_more(address, engine.model_name))
    print(dict(outcomes), engine.stats())
    assert outcomes.total() == count
    assert {200, 400, 404, 422, "left", "nonsense"} <= set(outcomes)
    assert outcomes[200] > count / 4
    assert check(reply, {"stream": False, "n": 1}, {200}) == 200
    stats = engine.stats()
    assert stats.adapter_evictions > 0
    assert stats.blocks_kv == 0
    assert stats.blocks_free + stats.blocks_adapters + stats.blocks_cached == stats.blocks_total
    evict_all(engine)
    after = engine.stats()
    assert after.blocks_free == before.blocks_free == after.blocks_total
    assert after.num_running == after.num_waiting == 0


def one_more(address, base):
    body = {"model": base, "prompt": "still there?", "max_tokens": 3}
    return talk(address, json.dumps(body).encode(), leave_after=None)


def wait_until_idle(engine):
    deadline = time.monotonic() + 60
    while engine.stats().num_running or engine.stats().num_waiting:
        assert time.monotonic() < deadline, "requests are left"
        time.sleep(0.01)


def evict_all(engine):
    """Idle adapters keep their blocks until they are needed; here they are taken back."""
    assert engine.scheduler.memory.reclaim(engine.scheduler.memory.num_blocks)
    engine.audit()
