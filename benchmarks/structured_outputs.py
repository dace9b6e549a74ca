"""What it costs to keep answers to a form, and whether they keep to it.

python benchmarks/structured_outputs.py speed --output FILE
python benchmarks/structured_outputs.py suite --suite DIR --output FILE

`speed`: a batch in which every sequence has one of four forms against the same batch without, in
turns on one engine; a round is one of each, and the ratio is the median of the rounds' ratios of
new tokens per second (bar: 0.9). Then a batch of which half has forms: the tokens of the others
must be those that they get alone. `suite`: every schema of JSON Schema's own test suite is asked of
a model (`--suite` is `json/tests/draft2020-12` of the source distribution of the package
jsonschema); each answer that is finished must be valid, as the package judges it. Writes JSON.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema

from common import describe_machine, random_prompts
from gossamer import LLM, SamplingParams, StructuredOutputs
from gossamer.basemodel.find import resolve
from gossamer.errors import RequestError

BAR = 0.9
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "state": {"enum": ["open", "paid", "sent"]},
    },
    "required": ["name", "age", "tags", "state"],
    "additionalProperties": False,
}
# None of them ends before the batch does.
FORMS = (
    StructuredOutputs(json={"type": "array", "items": PERSON, "minItems": 500}),
    StructuredOutputs(json={"type": "array", "items": {"type": "object"}, "minItems": 500}),
    StructuredOutputs(regex=r"([A-Z][a-z]{2,12} is [a-z ]{5,60}\. ){500,}"),
    StructuredOutputs(grammar='root ::= row{500,}\nrow ::= [a-z]+ "," [0-9]+ "," [a-z ]+ "\\n"'),
)


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of batches with and without forms."""
    prompts = random_prompts(resolve(args.model), args.sequences, args.prompt_tokens)
    free = [
        SamplingParams(max_tokens=args.new_tokens, temperature=0.8, seed=n, ignore_eos=True)
        for n in range(args.sequences)
    ]
    formed = [
        SamplingParams(
            max_tokens=args.new_tokens,
            temperature=0.8,
            seed=n,
            ignore_eos=True,
            structured_outputs=FORMS[n % len(FORMS)],
        )
        for n in range(args.sequences)
    ]
    rates: dict[str, list[float]] = {"free": [], "formed": []}
    with LLM(args.model, memory_gib=2.0, prefix_cache=False) as llm:

        def rate(sampling: list[SamplingParams]) -> float:
            begun = time.perf_counter()
            done = llm.generate(prompts, sampling=sampling)
            count = sum(len(each.token_ids) for each in done)
            assert count == args.sequences * args.new_tokens, "a form has ended"
            return count / (time.perf_counter() - begun)

        rate(free), rate(formed)
        for number in range(args.rounds):
            sides = [("free", free), ("formed", formed)]
            for name, sampling in sides if number % 2 else sides[::-1]:
                rates[name].append(rate(sampling))
        alone = llm.generate(prompts[::2], sampling=free[::2])
        mixed = [free[n] if n % 2 == 0 else formed[n] for n in range(args.sequences)]
        beside = llm.generate(prompts, sampling=mixed)[::2]
    ratios = [formed / free for free, formed in zip(*rates.values(), strict=True)]
    ratio = statistics.median(ratios)
    return {
        "sequences": args.sequences,
        "prompt tokens": args.prompt_tokens,
        "new tokens": args.new_tokens,
        "tokens per second, free": round(statistics.median(rates["free"]), 1),
        "tokens per second, formed": round(statistics.median(rates["formed"]), 1),
        "ratios": [round(each, 3) for each in ratios],
        "median ratio": round(ratio, 3),
        "reaches the bar": ratio >= BAR,
        "neighbours' tokens unchanged": [each.token_ids for each in alone]
        == [each.token_ids for each in beside],
    }


def suite(args: argparse.Namespace) -> dict[str, Any]:
    """Ask for each schema of the suite, and judge what comes."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    asked: list[tuple[str, Any]] = []
    begun = time.perf_counter()
    with LLM(args.model, memory_gib=1.0) as llm:
        for file in sorted(args.suite.glob("*.json")):
            for case in json.loads(file.read_text()):
                counts["schemas"] += 1
                try:
                    llm.generate("x", sampling=_of(case["schema"], 0, max_tokens=1))
                except RequestError:
                    counts["refused"] += 1
                else:
                    asked.append((f"{file.stem}: {case['description']}", case["schema"]))
        samplings = [_of(schema, seed) for _, schema in asked for seed in range(args.seeds)]
        done = llm.generate(["A document as JSON:\n"] * len(samplings), sampling=samplings)
    names = [each for each in asked for _ in range(args.seeds)]
    for (name, schema), answer in zip(names, done, strict=True):
        counts[answer.finish_reason] += 1
        if answer.finish_reason != "stop":
            continue
        try:
            # Of formats, those that the judge knows here; of the others it says nothing.
            judge = jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
            )
            judge.validate(json.loads(answer.text))
        except (ValueError, jsonschema.ValidationError):
            wrong.append(f"{name}: {answer.text}")
    return {**counts, "wrong": wrong, "seconds": round(time.perf_counter() - begun, 1)}


def _of(schema: Any, seed: int, max_tokens: int = 120) -> SamplingParams:
    form = StructuredOutputs(json=schema)
    return SamplingParams(max_tokens=max_tokens, seed=seed, structured_outputs=form)


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "suite"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    found = {"speed": speed, "suite": suite}[args.what](args)
    text = json.dumps({"machine": describe_machine(), "model": args.model, **found}, indent=1)
    args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
