"""What a fine-tuning job takes from the requests beside it: throughput, first tokens, answers.

python benchmarks/job_beside_serving.py --output results/job-beside-serving_MACHINE_DATE

Starts a server with jobs, and plays the same load on it alone and beside a job, in turns: the job
is paused while the server is measured alone, so both halves of a round see the same machine a few
minutes apart. A round has two loads: all requests at once, for throughput, and requests that come
by --rate, for first tokens; choose a rate of about half of what the machine carries, or first
tokens measure the queue. What is reported are the medians of the rounds' ratios, against the bars
of at least 0.85 of the throughput and at most 1.5 times the first token's 95th percentile. Answers
to fixed prompts must have the same tokens in both halves.

Take the figures on a machine that does nothing else, with at least five rounds:

    python benchmarks/job_beside_serving.py --rounds 5 --seconds 60 --burst 48 --rate 1.0 \\
        --output benchmarks/results/job-beside-serving_MACHINE_DATE
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from transformers import AutoConfig

from common import describe_machine
from gossamer.basemodel.find import resolve
from gossamer.serving.client.address import api_root
from gossamer.serving.client.child_server import child_server
from gossamer.serving.loadtest.client import ClientSettings
from gossamer.serving.loadtest.outcomes import Sample, summarize
from gossamer.serving.loadtest.run import play
from gossamer.serving.loadtest.workload import Workload

LEAST_THROUGHPUT, MOST_FIRST_TOKEN = 0.85, 1.5
PROMPT_TOKENS = 64
"""Of each prompt; no half asks what another has asked, or cached prefixes would answer."""
PATIENCE = 300.0
"""Seconds for a worker to start and to take a step."""
AT_ONCE = 1000.0
"""Requests per second: all of them at once."""
QUESTIONS = [f"What is {n} plus {n + 3}? Then name {n} colours." for n in range(2, 8)]


@dataclass(frozen=True, slots=True)
class Half:
    """What users felt in one half of a round."""

    tokens_per_second: float
    """New tokens, with all requests at once."""
    first_token_p50: float
    first_token_p95: float
    """Seconds, with requests that come by the rate."""
    answers: list[list[str]]
    """Tokens of the answers to the fixed prompts."""
    job_steps: int
    """Steps that the job took meanwhile."""
    seconds: float


def main() -> None:
    """Measure and write `OUTPUT.json` and `OUTPUT.md`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of halves [default: 5]")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of the load by rate [default: 60]"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="requests per second [default: 1]")
    parser.add_argument("--burst", type=int, default=48, help="requests at once [default: 48]")
    parser.add_argument(
        "--output-tokens", type=int, default=32, help="of each answer [default: 32]"
    )
    parser.add_argument("--method", default="lora", help="method of the job [default: lora]")
    parser.add_argument("--batch-size", type=int, default=4, help="of the job [default: 4]")
    parser.add_argument("--share", choices=("idle", "pause", "full"), default="idle")
    parser.add_argument("--output", type=Path, required=True, help="path without its ending")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gossamer-beside-") as folder:
        options = ["--jobs", "--data-dir", f"{folder}/data", "--jobs-share", args.share]
        with child_server(args.model, None, options) as url:
            pairs = measure(url, args)
    report = summarize_rounds(pairs) | {"arguments": {**vars(args), "output": args.output.name}}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    text = as_markdown(report, " ".join(["python", *sys.argv]))
    args.output.with_suffix(".md").write_text(text)
    print(text)


def measure(url: str, args: argparse.Namespace) -> list[tuple[Half, Half]]:
    """All rounds; in every second one the job comes first."""
    with httpx.Client(base_url=api_root(url), timeout=600.0) as client:
        job = Job(client, args)
        pairs = []
        for number in range(args.rounds):
            halves: dict[bool, Half] = {}
            for with_job in (False, True) if number % 2 == 0 else (True, False):
                job.turn(with_job)
                halves[with_job] = one_half(url, client, job, args, seed=2 * number + with_job)
            pairs.append((halves[False], halves[True]))
            print(f"round {number + 1}: {_line(*pairs[-1])}", file=sys.stderr, flush=True)
        job.cancel()
    return pairs


def one_half(
    url: str, client: httpx.Client, job: "Job", args: argparse.Namespace, *, seed: int
) -> Half:
    """Play both loads and ask the fixed prompts."""
    models = [client.get("models").json()["data"][0]["id"]]
    settings = ClientSettings(vocabulary=AutoConfig.from_pretrained(resolve(args.model)).vocab_size)
    sizes = {
        "adapters": 1,
        "min_prompt": PROMPT_TOKENS,
        "max_prompt": PROMPT_TOKENS,
        "min_output": args.output_tokens,
        "max_output": args.output_tokens,
        "seed": seed,
    }
    started, steps = time.monotonic(), job.step()
    burst = Workload(rate=AT_ONCE, duration=args.burst / AT_ONCE + 1e-9, **sizes)
    crowd = finished(play(url, models, burst, settings))
    steady = finished(
        play(url, models, Workload(rate=args.rate, duration=args.seconds, **sizes), settings)
    )
    firsts = sorted(sample.first_token_seconds or 0.0 for sample in steady)
    return Half(
        tokens_per_second=summarize(crowd, settings.slo).output_tokens_per_second,
        first_token_p50=_percentile(firsts, 50),
        first_token_p95=_percentile(firsts, 95),
        answers=[answer(client, models[0], question) for question in QUESTIONS],
        job_steps=job.step() - steps,
        seconds=time.monotonic() - started,
    )


def finished(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples, of which each must have finished."""
    problems = {sample.problem for sample in samples if sample.outcome != "finished"}
    if problems or not samples:
        raise SystemExit(f"requests did not finish, so nothing is compared: {problems}")
    return samples


def answer(client: httpx.Client, model: str, question: str) -> list[str]:
    """The tokens of the most likely answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 24,
        "temperature": 0,
        "logprobs": True,
    }
    choice = _ok(client.post("chat/completions", json=body))["choices"][0]
    return [token["token"] for token in choice["logprobs"]["content"]]


class Job:
    """One job that would train for ever, run and paused by turns."""

    def __init__(self, client: httpx.Client, args: argparse.Namespace) -> None:
        self._client = client
        rows = b"".join(
            json.dumps(
                {"prompt": f"What is {n} + 1?", "completion": f"It is {n + 1}. " * 8}
            ).encode()
            + b"\n"
            for n in range(400)
        )
        files = {"file": ("rows.jsonl", rows)}
        file = _ok(client.post("files", data={"purpose": "fine-tune"}, files=files))["id"]
        while _ok(client.get(f"files/{file}"))["status"] == "uploaded":
            time.sleep(0.2)
        body = {
            "model": _ok(client.get("models"))["data"][0]["id"],
            "training_file": file,
            "adapter": {"method": args.method},
            "training": {
                "max_steps": 1_000_000,
                "batch_size": args.batch_size,
                "save_every": 1_000_000,
            },
        }
        self._id = _ok(client.post("fine_tuning/jobs", json=body))["id"]

    def turn(self, on: bool) -> None:
        """Let it train, or pause it; returns when it does."""
        status = self._look()["status"]
        if on and status == "paused":
            self._post("resume")
        if not on and status != "paused":
            self._post("pause")
        before, wanted = self.step(), "running" if on else "paused"
        deadline = time.monotonic() + PATIENCE
        while True:
            job = self._look()
            if job["status"] == "failed":
                raise SystemExit(f"the job failed: {job['error']}")
            if job["status"] == wanted and (not on or job["progress"]["step"] > before):
                return
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"the job is not {wanted} after {PATIENCE:g} s: with --share idle it trains "
                    "only while nothing else wants the processors, other programs included"
                )
            time.sleep(0.5)

    def step(self) -> int:
        """How many steps it has done."""
        return int(self._look()["progress"]["step"] or 0)

    def cancel(self) -> None:
        """End it."""
        self._post("cancel")

    def _post(self, verb: str) -> None:
        _ok(self._client.post(f"fine_tuning/jobs/{self._id}/{verb}"))

    def _look(self) -> dict:
        return _ok(self._client.get(f"fine_tuning/jobs/{self._id}"))


def summarize_rounds(pairs: list[tuple[Half, Half]]) -> dict:
    """The figures of all rounds and the medians of their ratios."""
    ratios = [
        {
            "throughput": beside.tokens_per_second / alone.tokens_per_second,
            "first_token_p50": beside.first_token_p50 / alone.first_token_p50,
            "first_token_p95": beside.first_token_p95 / alone.first_token_p95,
        }
        for alone, beside in pairs
    ]
    medians = {name: statistics.median(each[name] for each in ratios) for name in ratios[0]}
    answers = [half.answers for pair in pairs for half in pair]
    return {
        "machine": describe_machine(),
        "rounds": [
            {"alone": _figures(alone), "beside": _figures(beside)} for alone, beside in pairs
        ],
        "ratios": ratios,
        "medians": medians,
        "answers_equal": all(each == answers[0] for each in answers),
        "bars": {
            "throughput": medians["throughput"] >= LEAST_THROUGHPUT,
            "first_token_p95": medians["first_token_p95"] <= MOST_FIRST_TOKEN,
        },
    }


def as_markdown(report: dict, command: str) -> str:
    """The report for people."""
    lines = [
        "# A fine-tuning job beside requests",
        "",
        f"`{command}` on {report['machine']}",
        "",
        "| round | new tokens/s alone, beside | first token p95 alone, beside (s) | job's steps/min"
        " |",
        "| --- | --- | --- | --- |",
    ]
    for number, each in enumerate(report["rounds"], 1):
        alone, beside = each["alone"], each["beside"]
        lines.append(
            f"| {number} | {alone['tokens_per_second']:.1f}, {beside['tokens_per_second']:.1f} "
            f"| {alone['first_token_p95']:.2f}, {beside['first_token_p95']:.2f} "
            f"| {60 * beside['job_steps'] / beside['seconds']:.1f} |"
        )
    medians, bars = report["medians"], report["bars"]
    same = "the same tokens in all halves" if report["answers_equal"] else "DIFFERENT tokens"
    lines += [
        "",
        f"Medians of the rounds' ratios: throughput {medians['throughput']:.2f} (bar: at least "
        f"{LEAST_THROUGHPUT}, {_reached(bars['throughput'])}), first token p50 "
        f"{medians['first_token_p50']:.2f}, p95 {medians['first_token_p95']:.2f} (bar: at most "
        f"{MOST_FIRST_TOKEN}, {_reached(bars['first_token_p95'])}). Answers to {len(QUESTIONS)} "
        f"fixed prompts: {same}.",
        "",
    ]
    return "\n".join(lines)


def _figures(half: Half) -> dict:
    names = ("tokens_per_second", "first_token_p50", "first_token_p95", "job_steps", "seconds")
    return {name: getattr(half, name) for name in names}


def _line(alone: Half, beside: Half) -> str:
    return (
        f"{alone.tokens_per_second:.1f} and {beside.tokens_per_second:.1f} tokens/s, p95 "
        f"{alone.first_token_p95:.2f} and {beside.first_token_p95:.2f} s, {beside.job_steps} steps"
    )


def _reached(is_so: bool) -> str:
    return "reached" if is_so else "missed"


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _ok(response: httpx.Response) -> dict:
    if response.is_error:
        raise SystemExit(f"{response.url}: {response.text}")
    return response.json()


if __name__ == "__main__":
    main()
