"""Requests per second of this engine, of PEFT, and of transformers without adapters."""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from lease_sections.frame import Found, Lease
from lease_sections.graph_steps import ATTENTION
from model_steps import llama_3_8b, tiny_llama

LAYERS, VOCABULARY = 8, 32_000
"""Of a model whose layers are Llama-3-8B's: 32 would only be written and read."""
ADAPTERS, REQUESTS, RANK = 100, 16, 16
PROMPT, NEW = 64, 32
MOST_SECONDS = 10.0
"""For requests one after the other, and for transformers' own server to answer at all."""
CONTINUOUS = "transformers continuous batching, no adapters"

Answers = list[list[int]]
"""The new tokens of each request."""


def peft(lease: Lease) -> Found:
    """All requests at once here, each with an adapter of its own out of many that are served.

    PEFT holds those alone that are asked for, in memory before the time counts, which favours it:
    the more it holds, the slower it switches.
    """
    # Beside this folder, and in that of the tests.
    from common import random_adapters, random_prompts

    from tiny import tiny_tokenizer

    count, requests, new = (5, 3, 3) if lease.dry else (ADAPTERS, REQUESTS, NEW)
    with tempfile.TemporaryDirectory() as name:
        folder, adapters = Path(name) / "model", Path(name) / "adapters"
        model = _model(lease)
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        adapters.mkdir()
        # PEFT reads rows in the format of the base.
        names = random_adapters(adapters, folder, count, RANK, dtype=model.dtype, targets=ATTENTION)
        prompts = random_prompts(folder, requests, 7 if lease.dry else PROMPT)
        asked = list(islice(cycle(names[:: max(1, count // requests)]), requests))
        found: Found = {"layers": model.config.num_hidden_layers, "adapters": count}
        found |= {"requests": requests, "new_tokens": new, "transformers": transformers.__version__}
        rates: dict[str, float] = {}
        rates["gossamer"], own, found["resident"] = _ours(
            lease, folder, adapters, names, asked, prompts, new
        )
        base, answers = _theirs(lease, model, adapters, asked, prompts, new, rates)
        found["same_tokens"] = _share(own, answers)
        rates[CONTINUOUS], found["why_not"] = _continuous(lease, base, prompts, new)
    return found | {"requests_per_s": {name: rate for name, rate in rates.items() if rate}}


def _model(lease: Lease) -> Any:
    config = tiny_llama() if lease.dry else llama_3_8b(LAYERS)
    config = LlamaConfig(
        **config.to_dict() | {"vocab_size": 300 if lease.dry else VOCABULARY, "eos_token_id": 2}
    )
    torch.manual_seed(0)
    dtype = torch.float32 if lease.dry else torch.bfloat16
    with torch.device(lease.device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _ours(
    lease: Lease, folder: Path, adapters: Path, names: list[str], asked: list[str],
    prompts: list[list[int]], new: int,
) -> tuple[float, Answers, int]:  # fmt: skip
    """Requests per second after each adapter was served once, their tokens, adapters resident."""
    options = {
        "backend": "triton", "device": lease.device.type, "max_running": len(asked),
        "memory_gib": 0.05 if lease.dry else 2.0, "prefix_cache": False,
    }  # fmt: skip

    def sampling(tokens: int) -> SamplingParams:
        return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)

    with LLM(str(folder), adapters=adapters, **options) as llm:
        llm.generate([[1, 2]] * len(names), adapter=names, sampling=sampling(1))
        seconds = []
        # The first compiles what is not yet.
        for _ in range(1 if lease.dry else 4):
            started = time.perf_counter()
            completions = llm.generate(prompts, adapter=asked, sampling=sampling(new))
            seconds.append(time.perf_counter() - started)
        resident = llm.engine.stats().adapters_resident
    rate = len(asked) / statistics.median(seconds[1:] or seconds)
    return rate, [list(each.token_ids) for each in completions], resident


def _theirs(
    lease: Lease, model: Any, adapters: Path, asked: list[str], prompts: list[list[int]], new: int,
    rates: dict[str, float],
) -> tuple[Any, Answers]:  # fmt: skip
    """Both ways of PEFT into `rates`; returns the base model, free of it, and the tokens."""
    from peft import PeftModel

    options = {"autocast_adapter_dtype": False}
    first, *others = dict.fromkeys(asked)
    wrapped = PeftModel.from_pretrained(model, adapters / first, adapter_name=first, **options)
    for name in others:
        wrapped.load_adapter(adapters / name, name, low_cpu_mem_usage=True, **options)
    wrapped.eval()
    tokens = torch.tensor(prompts, device=lease.device)

    def generate(ids: Tensor, **named: Any) -> Answers:
        with torch.inference_mode():
            answered = wrapped.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids),
                generation_config=_greedy(new), **named,
            )  # fmt: skip
        answers: Answers = answered[:, ids.shape[1] :].tolist()
        return answers

    def switching(requests: Sequence[int]) -> Answers:
        answers: Answers = []
        until = time.perf_counter() + MOST_SECONDS
        for i in requests:
            if time.perf_counter() < until or not answers:
                wrapped.set_adapter(asked[i])
                answers += generate(tokens[i : i + 1])
        return answers

    switching([0])
    numbers = range(len(asked))
    rates["peft switching"], answers = _timed(lambda: switching(numbers))
    rates["peft adapter_names"], mixed = _timed(lambda: generate(tokens, adapter_names=asked))
    return wrapped.unload(), answers if len(answers) == len(asked) else mixed


def _greedy(new: int) -> GenerationConfig:
    """So many tokens, whichever they are."""
    return GenerationConfig(
        max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=True
    )


def _timed(ask: Callable[[], Answers]) -> tuple[float, Answers]:
    """Answers per second; tokens are read, so that nothing is still computed."""
    started = time.perf_counter()
    answers = ask()
    return len(answers) / (time.perf_counter() - started), answers


def _continuous(lease: Lease, model: Any, prompts: list[list[int]], new: int) -> tuple[float, str]:
    """Requests per second, or 0 and why there is none.

    On a thread, since a server that fails may leave its caller waiting.
    """
    settings = getattr(transformers, "ContinuousBatchingConfig", None)
    if settings is None or not hasattr(model, "generate_batch"):
        return 0.0, f"not there in transformers {transformers.__version__}"
    # Else nearly all that is free, which takes long to fill on a CPU.
    memory = settings(
        max_memory_percent=0.1 if lease.dry else 0.3, max_batch_tokens=64 if lease.dry else 2048
    )
    done: dict[str, Any] = {"why": f"no answer in {MOST_SECONDS:.0f} s"}

    def ask() -> Answers:
        answers = model.generate_batch(
            inputs=prompts, generation_config=_greedy(new), persistent_manager=True,
            continuous_batching_config=memory,
        )  # fmt: skip
        return [list(answer.generated_tokens) for answer in answers.values()]

    def run() -> None:
        try:
            ask()
            rate, answers = _timed(ask)
            if [len(answer) for answer in answers] == [new] * len(prompts):
                done.update(rate=rate, why="")
            else:
                done["why"] = f"{len(answers)} of {len(prompts)} answers, or of other lengths"
            model.destroy_cached_continuous_batching_manager()
        except Exception as error:
            done["why"] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(MOST_SECONDS)
    return done.get("rate", 0.0), done["why"]


def _share(own: Answers, other: Answers) -> float:
    """Tokens that are equal up to each answer's first that is not."""
    same = 0
    for one, two in zip(own, other, strict=True):
        equal = [a == b for a, b in zip(one, two, strict=True)]
        same += equal.index(False) if False in equal else len(equal)
    return same / sum(map(len, own))


def says(found: Found) -> str:
    """One line."""
    rates = [f"{name} {rate:.2f}" for name, rate in found["requests_per_s"].items()]
    if found["why_not"]:
        rates.append(f"{CONTINUOUS}: {found['why_not']}")
    return (
        f"{found['requests']} requests, {found['adapters']} adapters, {found['layers']} layers, in "
        f"requests/s: {', '.join(rates)}; {found['same_tokens']:.0%} of PEFT's tokens"
    )
