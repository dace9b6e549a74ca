"""Hostile bodies of requests, made of good ones; one seed always makes the same."""

import copy
import gzip
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mutate_json import LARGEST, Pairs, Raw, hostile_value, mutate, nested, thaw, to_text

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO = {"role": "user", "content": "Say hello."}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}},
}
COMMON: dict[str, Any] = {
    "max_tokens": 3,
    "temperature": 0,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.01,
    "seed": 7,
    "stop": ["\n\n", "x"],
    "n": 2,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "ignore_eos": True,
    "min_tokens": 1,
    "priority": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "user": "ann",
    "metadata": {"a": "b"},
    "logit_bias": {},
}
ONLY = {
    CHAT: {
        "messages": [
            {"role": "system", "content": "Be brief."},
            HELLO,
            {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "user", "content": "Again", "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        ],
        "max_completion_tokens": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [TOOL],
        # Offered, they would fill the small context.
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": False},
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "pet",
                "strict": True,
                "schema": {
                    "$defs": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"},
                        "age": {"anyOf": [{"$ref": "#/$defs/age"}, {"type": "null"}]},
                    },
                    "required": ["name"],
                    "additionalProperties": False,
                },
            },
        },
    },
    PLAIN: {
        "prompt": ["Once", "Twice"],
        "logprobs": 2,
        "echo": False,
        "best_of": 1,
        "structured_outputs": {"grammar": 'start: "a" b+\nb: /[x-z]{2}/ | "(" b ")"'},
    },
}
# Fields that may be added to any body, beside those above.
OTHERS = [
    "prompt", "messages", "functions", "function_call", "guided_regex",
    "guided_json",
    "structured_outputs", "response_format", "suffix", "prompt_embeds", "chat_template",
    "documents",
    "store", "modalities", "continue_final_message",
    "add_generation_prompt",
    "stop_token_ids", "repetition_penalty", "cache_salt", "models", "__class__", "role", "content",
]  # fmt: skip
PROMPTS = [
    [[1, 2, 3], [4]], [5, 6, 7], [2**31], [2**63], [258], [259], [True], [[]], [["a"]], [1, "a"],
    [1.0], [-1], "", [""], ["a"] * 500, [[1]] * 500, [1] * 5000, "<|im_start|>system\n", "\0",
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7"]


@dataclass(frozen=True)
class HostileBody:
    """A call that somebody made up."""

    seed: str
    path: str
    content: bytes
    headers: dict[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return f"body of seed {self.seed}: {self.path}: {'; '.join(self.notes)}"


def hostile_body(models: Sequence[str], seed: str, *, size: int = LARGEST) -> HostileBody:
    """The body that `seed` makes; it asks one of `models`, if it names one at all.

    `size` bounds the length of texts and lists roughly.
    """
    rng = random.Random(seed)
    path = rng.choice([CHAT, PLAIN])
    tree = _good(path, rng, rng.choice(models))
    names = [*COMMON, *ONLY[path], *OTHERS]
    notes = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        notes.append(_change(tree, path, rng, names, size))
    text = to_text(tree)
    if rng.random() < 0.05:
        text = rng.choice(
            [str(nested(rng, size // 2)), to_text(hostile_value(rng, size)), f"[{text}]"]
        )
        notes.append("something else")
    content, note = _encode(text, rng)
    headers = {"Content-Type": "application/json"}
    if rng.random() < 0.05:
        name = rng.choice(["Content-Type", "Content-Encoding", "Accept", "Authorization"])
        headers[name] = rng.choice(
            ["text/plain", "application/json; charset=utf-16", "gzip", "", "é?"]
        )
        notes.append(f"{name}: {headers[name]}")
    return HostileBody(seed, path, content, headers, tuple(filter(None, (*notes, note))))


def _good(path: str, rng: random.Random, model: str) -> Pairs:
    required = "messages" if path == CHAT else "prompt"
    fields = {"model": model, required: ONLY[path][required], "max_tokens": 3}
    others = {**COMMON, **{k: v for k, v in ONLY[path].items() if k != required}}
    for name in rng.sample(sorted(others), rng.randrange(6)):
        fields[name] = copy.deepcopy(others[name])
    if "stream_options" in fields:
        fields["stream"] = True
    return thaw(fields)


def _change(tree: Pairs, path: str, rng: random.Random, names: list[str], size: int) -> str:
    pick = rng.random()
    if pick < 0.1 and path == PLAIN:
        prompt = rng.choice(PROMPTS)
        _set(tree, "prompt", prompt)
        return f"prompt = {str(prompt)[:60]}"
    if pick < 0.2:
        model = rng.choice(
            ["lora:0.5", "lora:1e39+smt:-1", "lora:nan", "lora+" * 200, "lora:0", " lora", "LORA",
            "a/../lora",
             ":1", "+", "lora:0.1+lora:0.2", "nobody", "base\0", "\ud800", "x" * 600, "١"]
        )  # fmt: skip
        _set(tree, "model", model)
        return f"model = {model[:60]!r}"
    if pick < 0.3:
        field = rng.choice([name for name, _ in tree])
        value = hostile_value(rng, size)
        _set(tree, field, value)
        return f"{field} = {to_text(value)[:60]}"
    if pick < 0.35:
        many = rng.choice([300, size // 32])
        _set(
            tree,
            "messages" if path == CHAT else "prompt",
            [HELLO] * many if path == CHAT else ["a"] * many,
        )
        return f"{many} of them"
    return mutate(tree, rng, names=names, size=size)


def _set(tree: Pairs, name: str, value: Any) -> None:
    for pair in tree:
        if pair[0] == name:
            pair[1] = value if isinstance(value, Raw | Pairs) else thaw(value)
            return
    tree.append([name, value if isinstance(value, Raw | Pairs) else thaw(value)])


def _encode(text: str, rng: random.Random) -> tuple[bytes, str]:
    pick = rng.random()
    if pick < 0.85:
        return text.encode(), ""
    content = text.encode()
    at = rng.randrange(max(1, len(content)))
    if pick < 0.88:
        encoding = rng.choice(ENCODINGS)
        return text.encode(encoding, "replace"), encoding
    return rng.choice(
        [
            (content[:at], f"cut at {at}"),
            (content[:at] + rng.randbytes(1) + content[at + 1 :], f"another byte at {at}"),
            (content[:at] + b"\xed\xa0\x80" + content[at:], "half a character"),
            (content + b"\0", "a zero behind it"),
            (content + content, "twice"),
            (b"", "empty"),
            (b"   " + content + b"\n\n", "blanks"),
            (gzip.compress(content), "packed"),
            (content.replace(b'"', b"'"), "wrong quotes"),
            (rng.randbytes(at), "noise"),
        ]
    )
