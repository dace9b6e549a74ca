"""The log-probability that a model gives to the labelled tokens of examples."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from gossamer.training.data.encode import NO_LOSS, Example

# Positions of a batch, padding included: the scores of all of them over a large vocabulary are
# what takes memory here.
_MOST_POSITIONS = 2048


def log_probabilities(model: Any, examples: Sequence[Example]) -> Iterator[list[float]]:
    """Sum over an example's labelled tokens of log p(token | what stands before it), in nats.

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
