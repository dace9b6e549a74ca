"""What each of two servers can and cannot, found by asking; and whether their answers agree."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from transformers import AutoTokenizer

from side_by_side_client import Answer, ask_all
from side_by_side_servers import Server, Weights, message

TEXTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time there was a small boat that",
    "To make bread, first mix the flour with",
    "The three largest planets of the solar system are",
    "A list of colours: red, green, blue,",
    "In the year 1969, the first humans",
    "The opposite of cold is hot, and the opposite of dark is",
)
ANSWER = 24
STRONG = 4.0
"""Weight at which a random adapter's answers are unlike the base's."""
WEIGHTS: dict[str, Weights] = {
    "base": {},
    "adapter-0": {0: 1.0},
    "adapter-0 times 4": {0: STRONG},
    "adapter-0 times 2 and adapter-1 times 3": {0: 2.0, 1: 3.0},
}


def agreement(ours: Server, peer: Server, folder: Path) -> dict[str, str]:
    """Equal first tokens and equal greedy answers to `TEXTS`; answers that an adapter changed."""
    prompts = encode(folder)
    found, base = {}, answers(ours, prompts, {})
    for name, weights in WEIGHTS.items():
        mine, its = answers(ours, prompts, weights), answers(peer, prompts, weights)
        first = sum(a.pieces[0] == b.pieces[0] for a, b in zip(mine, its, strict=True))
        whole = sum(a.text == b.text for a, b in zip(mine, its, strict=True))
        other = sum(a.text != b.text for a, b in zip(mine, base, strict=True))
        found[f"{name}: same first piece"] = f"{first} of {len(prompts)}"
        found[f"{name}: same {ANSWER} tokens"] = f"{whole} of {len(prompts)}"
        if weights:
            found[f"{name}: unlike the base's answer"] = f"{other} of {len(prompts)}"
    return found


def encode(folder: Path) -> list[list[int]]:
    """Token ids of `TEXTS`: both servers get the same."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


def answers(server: Server, prompts: Sequence[Sequence[int]], weights: Weights) -> list[Answer]:
    """All with the same adapters."""
    return asyncio.run(ask_all(server, prompts, [weights] * len(prompts), ANSWER))


def facts(
    servers: Sequence[Server],
    folder: Path,
    count: int,
    rounds: Mapping[str, Mapping[str, list[dict]]],
) -> dict[str, dict[str, str]]:
    """By question and server."""
    found: dict[str, dict[str, str]] = {
        "seconds until ready": {s.name: f"{s.seconds_to_ready:.1f}" for s in servers},
        "resident MiB, all adapters used": {s.name: f"{s.resident_mib():.0f}" for s in servers},
    }
    for job, by_server in rounds.items():
        found[f"answers under way at once, {job}"] = {
            name: f"{max(run['answers_at_once'] for run in runs)} of {count}"
            for name, runs in by_server.items()
        }
    prompts = encode(folder)
    found["an adapter that does not exist"] = {
        s.name: tell(s, {count: STRONG}, prompts) for s in servers
    }
    found["an adapter put beside the others while the server runs"] = {
        s.name: late(s, count, prompts) for s in servers
    }
    return found


def late(server: Server, number: int, prompts: Sequence[Sequence[int]]) -> str:
    """What comes of asking for a copy of adapter 0 that appears now, as adapter `number`."""
    server.add_adapter(0, number)
    try:
        return tell(server, {number: STRONG}, prompts)
    finally:
        server.remove_adapter(number)


def tell(server: Server, weights: Weights, prompts: Sequence[Sequence[int]]) -> str:
    """The refusal; or whose answers they are: adapter 0's, the base's, or another's."""
    refusal, given = plain(server, weights, prompts)
    if refusal:
        return f"refused with {refusal}"
    if given == plain(server, {}, prompts)[1]:
        return "answered by the base model, without a word"
    if given == plain(server, {0: STRONG}, prompts)[1]:
        return "served"
    return "answered by something else"


def plain(
    server: Server, weights: Weights, prompts: Sequence[Sequence[int]]
) -> tuple[str, list[str]]:
    """The refusal, if any; the answers, one after the other and not streamed."""
    texts = []
    for prompt in prompts:
        body = server.body(prompt, weights, ANSWER)
        body = {key: value for key, value in body.items() if not key.startswith("stream")}
        response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=600)
        if not response.is_success:
            return f"status {response.status_code}: {message(response.text)}", []
        texts.append(response.json()["choices"][0]["text"])
    return "", texts
