"""Which library keeps tokens to a grammar: llguidance beside xgrammar, on one tokenizer.

python benchmarks/grammar_libraries.py --model FOLDER --suite DIR --output FILE

`--suite` is the folder `json/tests/draft2020-12` of the source distribution of the package
jsonschema (JSON Schema's own test suite). Each schema of it is compiled by both. Of those that a
library accepts it should take the valid instances, written as compact JSON, and stop the others.
Then masks and tokens of three documents, token by token. Install xgrammar beside the project, in an
environment of its own. Prints and writes one JSON object.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import llguidance
import llguidance.hf
import numpy as np
import torch
import xgrammar
from transformers import AutoConfig, AutoTokenizer

from common import describe_machine

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{6}$"},
        "state": {"enum": ["open", "paid", "sent", "returned"]},
        "lines": {
            "type": "array",
            "minItems": 1,
            "maxItems": 20,
            "items": {
                "type": "object",
                "properties": {
                    "article": {"type": "string", "maxLength": 40},
                    "number": {"type": "integer", "minimum": 1, "maximum": 99},
                    "price": {"type": "number"},
                },
                "required": ["article", "number", "price"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["id", "state", "lines"],
    "additionalProperties": False,
}
DOCUMENTS: list[tuple[str, dict[str, Any], Any]] = [
    ("person", PERSON, {"name": "Ada Lovelace", "age": 36, "tags": ["mathematics", "poetry"]}),
    (
        "order",
        ORDER,
        {
            "id": "ABC-123456",
            "state": "paid",
            "lines": [
                {"article": "a lamp", "number": 2, "price": 19.5},
                {"article": "a desk, of oak", "number": 1, "price": 240},
            ],
        },
    ),
    ("any object", {"type": "object"}, {"a": [1, 2.5, None], "b": {"c": "a text", "d": True}}),
]


class Matcher(Protocol):
    """A grammar being followed."""

    def fill(self, mask: Any) -> None: ...

    def take(self, token: int) -> bool: ...

    def may_end(self) -> bool: ...


class Guidance:
    """llguidance."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        ends = tokenizer.eos_token_id
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, vocab_size, ends)

    def matcher(self, schema: Any) -> Callable[[], Matcher]:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        first = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if first.is_error():
            raise ValueError(first.get_error())
        return lambda: _GuidanceMatcher(first.deep_copy())


class _GuidanceMatcher:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def fill(self, mask: Any) -> None:
        row = mask[0]
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)

    def take(self, token: int) -> bool:
        return bool(self._matcher.consume_token(token))

    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())


class Xgrammar:
    """xgrammar."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def matcher(self, schema: Any) -> Callable[[], Matcher]:
        text = json.dumps(schema)
        grammar = self._compiler.compile_json_schema(text, strict_mode=False)
        return lambda: _XgrammarMatcher(xgrammar.GrammarMatcher(grammar))


class _XgrammarMatcher:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def fill(self, mask: Any) -> None:
        self._matcher.fill_next_token_bitmask(torch.from_numpy(mask))

    def take(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def may_end(self) -> bool:
        return bool(self._matcher.is_completed())


def follow(matcher: Matcher, tokens: list[int]) -> bool:
    """Whether the tokens keep to the grammar, to an end."""
    return all(matcher.take(token) for token in tokens) and matcher.may_end()


def coverage(library: Any, tokenizer: Any, suite: Path) -> dict[str, Any]:
    """What becomes of the suite's schemas and instances."""
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    seconds: list[float] = []
    for file in sorted(suite.glob("*.json")):
        for case in json.loads(file.read_text()):
            counts["schemas"] += 1
            begun = time.perf_counter()
            try:
                start = library.matcher(case["schema"])
            except (ValueError, RuntimeError):
                refused[file.stem] += 1
                continue
            seconds.append(time.perf_counter() - begun)
            counts["accepted"] += 1
            for test in case["tests"]:
                text = json.dumps(test["data"], separators=(",", ":"), ensure_ascii=False)
                tokens = tokenizer.encode(text, add_special_tokens=False)
                took = follow(start(), tokens)
                is_right = took == test["valid"]
                name = "valid" if test["valid"] else "invalid"
                counts[f"{name}"] += 1
                counts[f"{name}, judged right"] += is_right
    return {
        **counts,
        "refused by file": dict(refused),
        "compile, median ms": round(1e3 * statistics.median(seconds), 3),
        "compile, longest ms": round(1e3 * max(seconds), 1),
    }


def mask_times(
    library: Any, tokenizer: Any, vocab_size: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Microseconds of a mask and of taking a token, along each document."""
    result = {}
    mask = np.full((1, -(-vocab_size // 32)), -1, dtype=np.int32)
    for name, schema, document in DOCUMENTS:
        tokens = tokenizer.encode(json.dumps(document), add_special_tokens=False)
        start = library.matcher(schema)
        masks: list[float] = []
        takes: list[float] = []
        first: list[float] = []
        for number in range(rounds + 1):
            matcher = start()
            for token in tokens:
                begun = time.perf_counter()
                matcher.fill(mask)
                filled = time.perf_counter()
                if not matcher.take(token):
                    raise ValueError(f"{name}: {tokenizer.decode([token])!r} was not taken")
                took = time.perf_counter()
                (masks if number else first).append(1e6 * (filled - begun))
                takes.append(1e6 * (took - filled))
        masks.sort()
        result[name] = {
            "first time, mean": round(statistics.mean(first), 1),
            "mask, mean": round(statistics.mean(masks), 1),
            "mask, 99 of 100": round(masks[int(0.99 * len(masks))], 1),
            "taking a token, mean": round(statistics.mean(takes), 1),
        }
    return result


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    vocab_size = AutoConfig.from_pretrained(given.model).vocab_size
    result: dict[str, Any] = {"machine": describe_machine(), "model": given.model.name}
    for name, make in (("llguidance", Guidance), ("xgrammar", Xgrammar)):
        begun = time.perf_counter()
        library = make(tokenizer, vocab_size)
        result[name] = {
            "version": version(name),
            "tokenizer, seconds": round(time.perf_counter() - begun, 2),
            "microseconds": mask_times(library, tokenizer, vocab_size, given.rounds),
            "suite": coverage(library, tokenizer, given.suite),
        }
    text = json.dumps(result, indent=1)
    given.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
