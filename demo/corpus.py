"""Training files from the conversations of the package `chatterbot-corpus` (BSD licence)."""

import json
from importlib.resources import files
from pathlib import Path

import yaml

from demo.personas import Persona


def write_rows(persona: Persona, path: Path) -> int:
    """Write the persona's questions and answers as JSONL of prompt and completion; their number."""
    # The corpus repeats itself: tech_support is ten pairs, a hundred times over.
    rows = dict.fromkeys(row for topic in persona.topics for row in _rows(topic, persona))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for prompt, completion in rows:
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    return len(rows)


def _rows(topic: str, persona: Persona) -> list[tuple[str, str]]:
    text = (files("chatterbot_corpus") / "data" / "english" / f"{topic}.yml").read_text("utf-8")
    pairs = []
    for question, *answers in yaml.safe_load(text)["conversations"]:
        for answer in answers if persona.repeats else answers[:1]:
            if len(str(answer)) <= persona.max_answer:
                pairs.append((str(question).strip(), str(answer).strip()))
    return pairs
