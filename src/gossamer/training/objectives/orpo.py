"""ORPO's loss: the chosen answer's own, and the odds ratio of both answers.

From "ORPO: Monolithic Preference Optimization without Reference Model" (Hong et al., 2024),
equations 4 to 7. TRL has it among its experiments, which any release may change or drop.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def orpo_loss(chosen: Tensor, rejected: Tensor, nll: Tensor, beta: float) -> Tensor:
    """nll - beta * mean log sigmoid(log odds(chosen) - log odds(rejected)).

    `chosen` and `rejected` [pairs] are mean log-probabilities of an answer's tokens, `nll` the
    mean negative log-likelihood of the chosen answers' tokens.
    """
    return nll - beta * logsigmoid(log_odds(chosen) - log_odds(rejected)).mean()


def log_odds(log_probability: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p, in float32 at least."""
    wide = log_probability.to(torch.promote_types(log_probability.dtype, torch.float32))
    # A token of probability 1 has infinite odds, whose gradient would be no number.
    wide = wide.clamp(max=-torch.finfo(wide.dtype).eps)
    return wide - torch.log(-torch.expm1(wide))
