"""Sampling of one row of logits, step by step as defined: the oracle of the batched sampler."""

from random import Random

import torch


def choose(logits, params, generated, rng: Random, forbidden_early=()):
    """The next token by `logits` [vocabulary], which are changed; `generated`: those before."""
    counts = {token: generated.count(token) for token in generated}
    for token, count in counts.items():
        penalty = torch.tensor(params.frequency_penalty * count, dtype=logits.dtype)
        logits[token] -= params.presence_penalty + penalty
    if len(generated) < params.min_tokens:
        logits[list(forbidden_early)] = float("-inf")
    if params.temperature < 1e-4:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / params.temperature
    values, tokens = torch.sort(scaled, descending=True, stable=True)
    kept = values[: params.top_k or None]
    probabilities = (kept - kept.logsumexp(0)).exp()
    if params.top_p < 1.0:
        before = probabilities.cumsum(0) - probabilities
        probabilities[before.double() >= max(params.top_p, 1e-300)] = 0.0
    probabilities[probabilities < params.min_p * probabilities.max()] = 0.0
    if params.top_p == 1.0 and not 0 < params.top_k < len(scaled):
        # All candidates stay, in the order of the vocabulary.
        probabilities = torch.zeros_like(scaled).scatter(0, tokens, probabilities)
        tokens = torch.arange(len(scaled))
    cumulative = probabilities.double().cumsum(0)
    place = int(torch.searchsorted(cumulative, rng.random() * float(cumulative[-1]), right=True))
    return int(tokens[min(place, int(probabilities.nonzero()[-1]))])
