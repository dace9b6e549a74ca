"""Accuracy on problems whose answer is a number: the last number of the reply counts.

    python benchmarks/last_number.py --data test.jsonl --adapters runs --names base my-run

Rows need `prompt` and `answer`. Replies are greedy, with the model's chat template; a reply is
right if its last number equals the answer within 1e-3.
"""

import argparse
import json
import time
from pathlib import Path

from common import describe_machine
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.training.evaluation.tasks import last_number_is


def main() -> None:
    """Print the accuracy of the base model and of each adapter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapters", type=Path)
    parser.add_argument("--names", nargs="+", default=["base"], help="base, or adapters' names")
    parser.add_argument("--max-tokens", type=int, default=200)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.data.read_text().splitlines()]
    print(describe_machine())
    with LLM(args.model, adapters=args.adapters) as llm:
        for name in args.names:
            started = time.monotonic()
            right = score(llm, rows, None if name == "base" else name, args.max_tokens)
            seconds = time.monotonic() - started
            share = 100 * right / len(rows)
            print(f"{name}: {right} of {len(rows)} right ({share:.1f} %), {seconds:.0f} s")


def score(llm: LLM, rows: list[dict], adapter: str | None, max_tokens: int) -> int:
    """How many rows are answered rightly."""
    conversations = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
    replies = llm.chat(conversations, adapter=adapter, sampling=sampling)
    return sum(last_number_is(c.text, row["answer"]) for c, row in zip(replies, rows, strict=True))


if __name__ == "__main__":
    main()
