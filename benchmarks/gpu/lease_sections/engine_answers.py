"""The whole engine on the machine's GPU: the tokens that plain torch gives on its processor."""

import tempfile
from pathlib import Path

import torch

from gossamer.llm import LLM, Completion
from gossamer.serving.core.messages import SamplingParams
from lease_sections.frame import Found, Lease

CONFIGURATIONS = ({"rank": 3}, {"rank": 16}, {"rank": 33}, {"rank": 8, "dora": True})
"""One adapter of each, in float32."""


def answers(lease: Lease) -> Found:
    """A mixed batch of a tiny model: base, low-rank of several ranks, DoRA, and a blend.

    Greedy, in float32, where tokens must be equal; and in the GPU's own format, where a share of
    them is, and log-probabilities of the equal ones are close.
    """
    # Of this project's benchmarks and tests, which lie in the tree beside this folder.
    from common import random_adapters

    from tiny import make_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "model", hidden_size=64, intermediate_size=128)
        adapters = Path(folder) / "adapters"
        adapters.mkdir()
        names: list[str] = []
        for index, configuration in enumerate(CONFIGURATIONS):
            names += random_adapters(
                adapters, model, 1, configuration["rank"], prefix=f"adapter-{index}",
                dora=configuration.get("dora", False),
            )  # fmt: skip
        want = _said(lease, model, adapters, names, "reference", "cpu", "float32")
        got = _said(lease, model, adapters, names, "triton", lease.device.type, "float32")
        found: Found = {"requests": len(want), "different": _different(want, got)}
        if lease.device.type == "cuda":
            got = _said(lease, model, adapters, names, "triton", "cuda", "auto")
            found["same_in_short_format"] = _share(want, got)
    return found


def _said(
    lease: Lease, model: Path, adapters: Path, names: list[str], backend: str, device: str,
    dtype: str,
) -> list[Completion]:  # fmt: skip
    asked = [None, *names, {names[0]: 0.7, names[1]: 0.3}]
    if lease.dry:
        asked = asked[::2]
    prompts = [f"Say {number} of them, please"[: 6 + number] for number in range(len(asked))]
    sampling = SamplingParams(
        max_tokens=2 if lease.dry else 24, temperature=0.0, ignore_eos=True, logprobs=0
    )
    options = {"backend": backend, "device": device, "dtype": dtype, "memory_gib": 0.05}
    with LLM(str(model), adapters=adapters, **options) as llm:
        completions = llm.generate(prompts, adapter=asked, sampling=sampling)
        llm.engine.audit()
    return completions


def _different(want: list[Completion], got: list[Completion]) -> list[str]:
    found = []
    for one, other in zip(want, got, strict=True):
        if one.token_ids != other.token_ids:
            found.append(f"{one.adapter}: {one.token_ids}, then {other.token_ids}")
            continue
        pairs = zip(one.logprobs or (), other.logprobs or (), strict=True)
        off = max((abs(a.logprob - b.logprob) for a, b in pairs), default=0.0)
        if off > 1e-3:
            found.append(f"{one.adapter}: log-probabilities {off:.1e} off")
    return found


def _share(want: list[Completion], got: list[Completion]) -> float:
    """Tokens that are equal up to each answer's first that is not."""
    same = total = 0
    for one, other in zip(want, got, strict=True):
        equal = [a == b for a, b in zip(one.token_ids, other.token_ids, strict=False)]
        same += equal.index(False) if False in equal else len(equal)
        total += len(one.token_ids)
    return same / max(1, total)


def says(found: Found) -> str:
    """One line."""
    wrong = "; ".join(found["different"]) or "none different"
    short = found.get("same_in_short_format")
    return f"{found['requests']} answers in float32, {wrong}" + (
        "" if short is None else f"; {short:.0%} of tokens the same in {torch.bfloat16}"
    )
