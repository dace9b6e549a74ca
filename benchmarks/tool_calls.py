"""What an adapter learns of calling tools: the share of right calls before and after tuning.

python benchmarks/tool_calls.py --output results/tool-calls_MODEL_MACHINE_DATE.json

A script makes the rows: eight tools, of which each conversation offers some, a question in one of
several wordings, and the one call that answers it, in OpenAI's shape. The held-out questions have
wordings and values that no row has. A LoRA adapter learns the rows; then a server of ours is asked
all held-out questions, of the base model and of the adapter, with `tool_choice` "auto", where the
model decides how to answer, and "required", where a grammar makes it call. A call is right if its
name and all of its arguments are.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from common import describe_machine
from gossamer import tune
from gossamer.serving.client.child_server import child_server

Row = dict[str, Any]
VALUES: dict[str, tuple[list[str], list[str]]] = {
    "city": (
        ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Quito", "Accra", "Hanoi"],
        ["Vienna", "Porto", "Dublin", "Nairobi", "Seoul", "Riga", "Lyon", "Kyoto"],
    ),
    "person": (
        ["Anna", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas"],
        ["Karim", "Laura", "Marta", "Nils", "Olga", "Pablo", "Rosa", "Sven"],
    ),
    "song": (
        ["Yellow", "Hey Jude", "Imagine", "Clocks", "Hello", "Creep", "Jolene", "Africa"],
        ["Thriller", "Wonderwall", "Halo", "Valerie", "Respect", "Umbrella", "Dreams"],
    ),
    "message": (
        ["I am late", "see you soon", "call me", "dinner is ready", "happy birthday"],
        ["the train is full", "good luck", "thank you"],
    ),
    "item": (
        ["milk", "bread", "two lemons", "rice", "soap", "coffee", "apples"],
        ["butter", "salt", "green tea", "eggs", "six onions", "honey", "olive oil"],
    ),
    "currency": (["euros", "dollars", "pounds", "yen", "francs"], ["pesos", "rupees", "kroner"]),
    "topic": (
        ["volcanoes", "chess", "black holes", "bees", "the Moon", "jazz"],
        ["glaciers", "opera", "penguins", "comets", "sailing", "honeybees", "Venus"],
    ),
}
"""Values of arguments: those of the rows, and those of the held-out questions."""


@dataclass(frozen=True)
class Kind:
    """A tool, how it is asked for, and the kinds of its arguments."""

    name: str
    says: str
    arguments: dict[str, str]
    wordings: tuple[str, ...]
    """The last one is kept for the held-out questions."""

    @property
    def tool(self) -> Row:
        """The tool as a request offers it."""
        types = {
            name: {"type": "integer" if kind == "number" else "string"}
            for name, kind in self.arguments.items()
        }
        parameters = {"type": "object", "properties": types, "required": list(types)}
        function = {"name": self.name, "description": self.says, "parameters": parameters}
        return {"type": "function", "function": function}


KINDS = (
    Kind("get_weather", "The weather of a city.", {"city": "city"},
         ("How is the weather in {city}?", "Will it rain in {city}?", "Weather of {city}, please.",
          "Do I need an umbrella in {city} today?")),
    Kind("set_timer", "Start a timer.", {"minutes": "number"},
         ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes.",
          "Timer, {minutes} minutes.", "Tell me when {minutes} minutes are over.")),
    Kind("send_message", "Send a text to a person.", {"to": "person", "text": "message"},
         ("Tell {to}: {text}.", "Send {to} the message '{text}'.", "Write to {to}: {text}.",
          "Let {to} know this: {text}.")),
    Kind("play_song", "Play a song.", {"title": "song"},
         ("Play {title}.", "I want to hear {title}.", "Put on the song {title}.",
          "Can I listen to {title} now?")),
    Kind("add_to_list", "Add something to the shopping list.", {"item": "item"},
         ("Add {item} to my list.", "We need {item}.", "Put {item} on the shopping list.",
          "Remind me to buy {item}.")),
    Kind("convert", "Convert an amount of money.",
         {"amount": "number", "from": "currency", "to": "currency"},
         ("How many {to} are {amount} {from}?", "Convert {amount} {from} to {to}.",
          "What are {amount} {from} in {to}?", "I have {amount} {from}: what is that in {to}?")),
    Kind("call", "Call a person on the phone.", {"person": "person"},
         ("Call {person}.", "Phone {person}, please.", "I want to talk to {person}.",
          "Get {person} on the line.")),
    Kind("search", "Search an encyclopedia.", {"topic": "topic"},
         ("What is known about {topic}?", "Look up {topic}.", "Tell me about {topic}.",
          "Find an article on {topic}.")),
)  # fmt: skip


def make_rows(count: int, offered: int, *, held_out: bool, seed: int) -> Iterator[Row]:
    """Make conversations of a question and its call, the kinds of tools in turn."""
    rng = random.Random(seed)
    asked: set[str] = set()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        others = rng.sample([each for each in KINDS if each is not kind], offered - 1)
        tools = [each.tool for each in (kind, *others)]
        rng.shuffle(tools)
        wordings = kind.wordings[-1:] if held_out else kind.wordings[:-1]
        # Of a few kinds there are fewer questions than rows.
        for _ in range(100):
            arguments = _arguments(kind, rng, held_out=held_out)
            question = rng.choice(wordings).format(**arguments)
            if question not in asked:
                break
        asked.add(question)
        function = {"name": kind.name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        call = {"id": f"call{number}", "type": "function", "function": function}
        yield {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "tool_calls": [call]},
            ],
            "tools": tools,
        }


def _arguments(kind: Kind, rng: random.Random, *, held_out: bool) -> Row:
    found: Row = {}
    for name, of in kind.arguments.items():
        if of == "number":
            # Numbers of two digits, odd ones for the rows and even ones for the questions.
            found[name] = 2 * rng.randrange(5, 49) + (not held_out)
            continue
        values = VALUES[of][held_out]
        found[name] = rng.choice([value for value in values if value not in found.values()])
    return found


def is_right(row: Row, message: Row) -> bool:
    """Whether an answer is the one call that the row has, and nothing else."""
    want = row["messages"][1]["tool_calls"][0]["function"]
    calls = message.get("tool_calls") or []
    if len(calls) != 1 or calls[0]["function"]["name"] != want["name"]:
        return False
    try:
        return json.loads(calls[0]["function"]["arguments"]) == json.loads(want["arguments"])
    except ValueError:
        return False


def ask(address: str, model: str, rows: Sequence[Row], choice: str, at_once: int) -> Row:
    """Ask all questions; returns how many calls are right, and the first wrong answers."""

    def one(row: Row) -> Row:
        body = {
            "model": model, "messages": row["messages"][:1], "tools": row["tools"],
            "tool_choice": choice, "temperature": 0, "max_tokens": 64,
        }  # fmt: skip
        reply = client.post(f"{address}/v1/chat/completions", json=body)
        reply.raise_for_status()
        message: Row = reply.json()["choices"][0]["message"]
        return message

    started = time.perf_counter()
    with httpx.Client(timeout=1800) as client, ThreadPoolExecutor(at_once) as threads:
        answers = list(threads.map(one, rows))
    right = [is_right(row, answer) for row, answer in zip(rows, answers, strict=True)]
    named = [
        [call["function"]["name"] for call in answer.get("tool_calls") or []]
        == [row["messages"][1]["tool_calls"][0]["function"]["name"]]
        for row, answer in zip(rows, answers, strict=True)
    ]
    wrong = [
        {"question": row["messages"][0]["content"], "answer": _shown(answer)}
        for row, answer, good in zip(rows, answers, right, strict=True)
        if not good
    ]
    return {
        "right": sum(right), "right_name": sum(named), "of": len(rows),
        "seconds": round(time.perf_counter() - started, 1), "wrong": wrong[:5],
    }  # fmt: skip


def _shown(answer: Row) -> str:
    calls = [call["function"] for call in answer.get("tool_calls") or []]
    return json.dumps(calls) if calls else str(answer.get("content"))[:200]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--offered", type=int, default=2, help="tools of each conversation")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Make rows, tune, serve, ask, and write what was right."""
    args = parse_args()
    questions = list(make_rows(args.questions, args.offered, held_out=True, seed=args.seed + 1))
    found: Row = {
        "machine": describe_machine(),
        "settings": {k: v for k, v in vars(args).items() if k != "output"},
    }
    with tempfile.TemporaryDirectory() as folder:
        data, adapters = Path(folder) / "rows.jsonl", Path(folder) / "adapters"
        rows = make_rows(args.rows, args.offered, held_out=False, seed=args.seed)
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        started = time.perf_counter()
        tune(
            args.model, data, adapters / "calls", method="lora", epochs=args.epochs,
            batch_size=args.batch_size, learning_rate=args.learning_rate, seed=args.seed,
        )  # fmt: skip
        found["tuning_seconds"] = round(time.perf_counter() - started, 1)
        options = ["--threads", str(args.threads), "--device", "cpu"]
        with child_server(args.model, adapters, options) as address:
            for model in (args.model, "calls"):
                for choice in ("auto", "required"):
                    result = ask(address, model, questions, choice, args.at_once)
                    found.setdefault("results", {})[f"{model}, {choice}"] = result
                    print(f"{model}, {choice}: {result['right']} of {result['of']}", flush=True)
    args.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
