"""Asks a model for answers and how likely it finds an answer, whatever method has trained it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from gossamer.basemodel.versions import cache_as_peft_names_it
from gossamer.training.data.encode import NO_LOSS, Example


def end_tokens(model: Any, tokenizer: Any, last_labels: Sequence[int] = ()) -> list[int]:
    """The tokens that end a reply, sorted.

    Those of the model and of its tokenizer, and those special ones of `last_labels`, with which
    training rows end.
    """
    configured = getattr(model, "generation_config", None)
    ids = getattr(configured, "eos_token_id", None)
    found = set(ids if isinstance(ids, list) else [ids]) | {tokenizer.eos_token_id}
    found |= set(last_labels) & set(tokenizer.all_special_ids)
    return sorted(int(token) for token in found if token is not None)


def generate_replies(
    model: Any, prompts: Sequence[Sequence[int]], *, ends: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    """The tokens that `model` adds to each of `prompts`, the end token and all after it left out.

    `model` is a transformers or a PEFT model in eval mode. The batch is padded on the left and
    decoded with a cache. With soft prompts and prefixes, which PEFT puts in front of the padding
    and whose distance to the tokens would grow by it, only prompts of one length share a batch.
    """
    config = _greedy(ends, max_new_tokens)
    replies: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad(), _only_greedy(model, config):
        for group in _groups(prompts, padded=not _has_soft_prompt(model)):
            output = _generate(model, [prompts[index] for index in group], config)
            for index, tokens in zip(group, output, strict=True):
                replies[index] = _until_end(tokens, set(ends))
    return replies


def _has_soft_prompt(model: Any) -> bool:
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def _groups(prompts: Sequence[Sequence[int]], *, padded: bool) -> list[list[int]]:
    """Group the numbers of prompts that may be generated from together."""
    if padded:
        return [list(range(len(prompts)))]
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    return list(by_length.values())


def _generate(
    model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), config.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, prompt in enumerate(prompts):
        ids[index, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[index, width - len(prompt) :] = 1
    device = next(model.parameters()).device
    with cache_as_peft_names_it(model):
        output = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
        )
    return [row[width:] for row in output.tolist()]


def _greedy(ends: Sequence[int], max_new_tokens: int) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(ends) or None,
        # Padding is masked, so any token will do.
        pad_token_id=ends[0] if ends else 0,
    )


@contextmanager
def _only_greedy(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Put the model's own settings (a temperature, a penalty) out of the way inside.

    transformers fills what a generation config leaves open from the model's own.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = base.generation_config
    base.generation_config = config
    try:
        yield
    finally:
        base.generation_config = before


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in ends:
            return tokens[:index]
    return tokens


# Positions of a batch, padding included: the scores of all of them over a large vocabulary are
# what takes memory here.
_MOST_POSITIONS = 2048


def log_probabilities(model: Any, examples: Sequence[Example]) -> Iterator[list[float]]:
    """The sum over an example's labelled tokens of log p(token | what stands before it), in nats.

    Yields the sums of one batch after another; a batch holds as many neighbours as fit.
    """
    start = 0
    while start < len(examples):
        stop = start + 1
        longest = len(examples[start].input_ids)
        while stop < len(examples):
            longest = max(longest, len(examples[stop].input_ids))
            if longest * (stop + 1 - start) > _MOST_POSITIONS:
                break
            stop += 1
        yield _batch(model, examples[start:stop])
        start = stop


def _batch(model: Any, examples: Sequence[Example]) -> list[float]:
    width = max(len(example.input_ids) for example in examples)
    ids = torch.zeros((len(examples), width), dtype=torch.long)
    labels = torch.full_like(ids, NO_LOSS)
    mask = torch.zeros_like(ids)
    for index, example in enumerate(examples):
        length = len(example.input_ids)
        ids[index, :length] = torch.tensor(example.input_ids)
        labels[index, :length] = torch.tensor(example.labels)
        mask[index, :length] = 1
    device = next(model.parameters()).device
    ids, labels, mask = ids.to(device), labels.to(device), mask.to(device)
    with torch.no_grad():
        # Labels tell methods that edit prompts where the prompt ends.
        logits = model(input_ids=ids, attention_mask=mask, labels=labels).logits
    # A soft prompt has positions of its own in front.
    logits = logits[:, -width:-1]
    rows, places = torch.nonzero(labels[:, 1:] != NO_LOSS, as_tuple=True)
    wanted = labels[:, 1:][rows, places]
    losses = cross_entropy(logits[rows, places].float(), wanted, reduction="none")
    sums = torch.zeros(len(examples), dtype=torch.float64, device=device)
    sums.index_add_(0, rows, -losses.double())
    return [float(value) for value in sums]
