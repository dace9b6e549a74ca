"""The good neighbours of `hostile.py` in a process of their own: streams, and their gaps."""

import asyncio
import itertools
import json
import time
from array import array
from multiprocessing.connection import Connection

import httpx

BEAT = 0.005
"""Seconds between two looks at this process's own punctuality."""
WORST = 12


def watch(address: str, names: list[str], streams: int, orders: Connection) -> None:
    """Stream again and again until told to stop; then tell what came."""
    asyncio.run(Neighbours(address, names, streams, orders).run())


class Neighbours:
    """Some streams at a time, each of another model than the one before."""

    def __init__(self, address: str, names: list[str], streams: int, orders: Connection) -> None:
        self._address = address
        self._names = names
        self._streams = streams
        self._orders = orders
        self._alone: dict[str, list[str]] = {}
        self._may_run = asyncio.Event()
        self._is_over = False
        self._running = 0
        self._gaps = array("d")
        self._firsts = array("d")
        self._worst: list[tuple[float, float, str]] = []
        self._late = 0.0
        self._wrong: list[str] = []
        self._answers = 0

    async def run(self) -> None:
        """Answers alone first; then streams; orders are `pause`, `go` and `stop`."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._address, timeout=600, limits=limits) as client:
            for name in self._names:
                self._alone[name] = await self._stream(client, name)
            self._forget()
            self._orders.send("ready")
            turn = itertools.cycle(self._names)
            tasks = [asyncio.create_task(self._repeat(client, turn)) for _ in range(self._streams)]
            beat = asyncio.create_task(self._watch_oneself())
            while (order := await asyncio.to_thread(self._orders.recv)) != "stop":
                await self._obey(order)
            self._is_over = True
            self._may_run.set()
            await asyncio.gather(*tasks)
            beat.cancel()
        self._orders.send(self._told())

    async def _obey(self, order: str) -> None:
        if order == "go":
            self._may_run.set()
        else:
            self._may_run.clear()
            while self._running:
                await asyncio.sleep(0.01)
        self._orders.send(order)

    async def _repeat(self, client: httpx.AsyncClient, turn: "itertools.cycle[str]") -> None:
        while True:
            await self._may_run.wait()
            if self._is_over:
                return
            name = next(turn)
            self._running += 1
            try:
                tokens = await self._stream(client, name)
                if tokens != self._alone[name]:
                    self._wrong.append(f"{name} at {time.monotonic():.2f}: {tokens}"[:300])
            except Exception as error:
                self._wrong.append(f"{name} at {time.monotonic():.2f}: {error!r}"[:300])
                await asyncio.sleep(0.1)
            finally:
                self._running -= 1
            self._answers += 1

    async def _stream(self, client: httpx.AsyncClient, name: str) -> list[str]:
        body = {
            "model": name,
            "prompt": f"The story of {name} is long.",
            "max_tokens": 100,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 0,
            "stream": True,
        }
        tokens: list[str] = []
        before = time.monotonic()
        async with client.stream("POST", "/v1/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                now = time.monotonic()
                self._note(now - before, now, name, is_first=not tokens)
                before = now
                choice = json.loads(line[6:])["choices"][0]
                tokens += (choice["logprobs"] or {"tokens": []})["tokens"]
        if len(tokens) != body["max_tokens"]:
            raise ValueError(f"{len(tokens)} tokens, status {reply.status_code}")
        return tokens

    def _note(self, gap: float, now: float, name: str, *, is_first: bool) -> None:
        if is_first:
            self._firsts.append(gap)
            return
        self._gaps.append(gap)
        if len(self._worst) < WORST or gap > self._worst[-1][0]:
            self._worst = sorted([*self._worst, (gap, now, name)], reverse=True)[:WORST]

    async def _watch_oneself(self) -> None:
        """How late this process is by itself: no gap can be blamed on the server below that."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(BEAT)
            self._late = max(self._late, time.monotonic() - before - BEAT)

    def _forget(self) -> None:
        self._gaps, self._firsts, self._worst, self._answers = array("d"), array("d"), [], 0

    def _told(self) -> dict[str, object]:
        return {
            "answers": self._answers,
            "wrong": self._wrong,
            "gaps": self._gaps,
            "firsts": self._firsts,
            "worst": self._worst,
            "own_lateness": self._late,
        }
