"""What the untouched transformers model says of two short texts, with windows short enough."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossamer.serving.runner.proof.attention import AttentionCall, recorded

WINDOW = 8
"""Positions that a window sees while a model is judged, so that short texts are longer than it."""
_SCALED_FROM = "original_max_position_embeddings"
LENGTHS = (24, 9)
"""Tokens of the two texts: one long enough for attention to take whole products."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Two texts, and what follows each token."""

    texts: tuple[list[int], list[int]]
    logits: tuple[Tensor, Tensor]
    """float32 [tokens, vocabulary] of each, in host memory."""
    attention: tuple[list[AttentionCall], list[AttentionCall]]
    """The calls of attention for each."""


@torch.inference_mode()
def expect(model: Any) -> Expectation:
    """Ask `model`, which is as transformers loaded it."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    texts = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in LENGTHS]
    logits, attention = [], []
    with short_windows(model):
        for text in texts:
            ids = torch.tensor([text], device=model.device)
            with recorded(model) as calls:
                output = model(input_ids=ids, use_cache=False)
            logits.append(output.logits[0].float().cpu())
            attention.append(calls)
    return Expectation((texts[0], texts[1]), (logits[0], logits[1]), (attention[0], attention[1]))


@contextmanager
def short_windows(model: Any) -> Iterator[None]:
    """Let windows of attention that are longer be `WINDOW` meanwhile.

    So are the positions after which queries are scaled more (`llama_4_scaling_beta`).
    """
    found = [
        (holder, value)
        for holder in (model.config, *model.modules())
        if type(value := getattr(holder, "sliding_window", None)) is int and value > WINDOW
    ]
    rope = getattr(model.config, "rope_parameters", None)
    scaled: dict[str, Any] = {}
    if isinstance(rope, dict) and rope.get("llama_4_scaling_beta") is not None:
        scaled = {_SCALED_FROM: rope.get(_SCALED_FROM)}
        rope[_SCALED_FROM] = WINDOW
    for holder, _ in found:
        holder.sliding_window = WINDOW
    try:
        yield
    finally:
        for holder, value in found:
            holder.sliding_window = value
        if isinstance(rope, dict):
            rope.update(scaled)
