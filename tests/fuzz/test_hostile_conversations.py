"""Conversations with tools that somebody made up, on each route that takes them."""

import asyncio
import json
import logging
import random

import httpx
import pytest
from fake_engine import FakeEngine
from mutate_json import mutate, thaw, to_text
from rig import ErrorLog
from seeds import seeds

from gossamer.serving.http.app import create_app
from gossamer.serving.http.settings import HttpSettings

from tiny import tiny_tokenizer

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "Does.", "parameters": PARAMETERS}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TEXT = [{"type": "text", "text": "x"}]
BODIES = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "developer", "content": TEXT},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "h"},
            {"role": "tool", "tool_call_id": "c1", "content": TEXT},
        ],
        "tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": False, "x": {"y": ["z"]}},
    },
    "/v1/responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "x"},
        ],
        "instructions": "Be brief.",
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": PARAMETERS}},
        "previous_response_id": None,
        "metadata": {"a": "b"},
        "store": True,
    },
    "/v1/messages": {
        "system": TEXT,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": TEXT}, *TEXT]},
        ],
        "tools": [{"name": "f", "description": "Does.", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "tool", "name": "f"},
        "stop_sequences": ["x"],
        "output_config": {"format": {"type": "json_schema", "schema": PARAMETERS}},
    },
}  # fmt: skip
ANSWERS = [
    '{"name": "f", "arguments": {"a": 1}}',
    '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>',
    "Hm. <tool_call>{",
]


@pytest.mark.parametrize("count", [250, pytest.param(30_000, marks=pytest.mark.slow)])
def test_conversations_get_an_answer_or_an_error_of_their_own(count):
    errors = ErrorLog()
    logging.getLogger("gossamer").addHandler(errors)
    engine = FakeEngine(tiny_tokenizer(), script=_answer, max_context=4096)
    try:
        statuses = asyncio.run(_run(engine, errors.found, count))
    finally:
        engine.shutdown()
        logging.getLogger("gossamer").removeHandler(errors)
    if len(statuses) == count:
        assert statuses.count(200) > count / 20
        assert statuses.count(400) > count / 5


def _answer(request):
    return list(random.Random(len(request.prompt_token_ids)).choice(ANSWERS))


async def _run(engine, errors, count):
    app = create_app(engine, HttpSettings(max_body_mib=0.5))
    transport = httpx.ASGITransport(app=app)
    statuses = []
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for seed in seeds(count):
            path, body, note = _hostile(random.Random(seed))
            reply = await client.post(
                path, content=body, headers={"Content-Type": "application/json"}, timeout=120
            )
            told = f"seed {seed}: {path}: {note}\n{body[:2000]}\n{reply.text[:500]}"
            assert reply.status_code in (200, 400, 404), told
            assert not errors, f"{errors}\n{told}"
            if reply.status_code != 200:
                message = json.loads(reply.text)["error"]["message"]
                assert message.isprintable(), told
                assert len(reply.text) < 4000, told
            statuses.append(reply.status_code)
    return statuses


def _hostile(rng):
    path = rng.choice(list(BODIES))
    body = BODIES[path]
    names = list(body)
    fields = {"model": "tiny", "max_tokens": 30, "stream": rng.random() < 0.3}
    if path == "/v1/responses":
        fields["max_output_tokens"] = fields.pop("max_tokens")
    required = {"messages", "input"} & set(names)
    fields |= {name: body[name] for name in names if name in required or rng.random() < 0.5}
    tree = thaw(json.loads(json.dumps(fields)))
    notes = [mutate(tree, rng, names=names, size=2000) for _ in range(rng.choice([1, 1, 2, 3]))]
    return path, to_text(tree).encode("utf-8", "surrogatepass"), "; ".join(notes)
