"""How SHERL (arXiv 2407.07523) makes one state of many: the features of states, their redundancy,
weights and sum, for each token alone.

K shallow features p_0 ... p_(K-1) and the guide q, the last feature, are h wide. All is computed in
float32 at least: the small constants vanish in half precision.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to norms and to the sum of the weights, so that zeros divide by no zero."""
SHARPNESS = 0.1
"""The gate of the last state is tanh(gamma / 0.1)."""

Layer = Callable[[Tensor], Tensor]
"""A linear layer or a norm: [..., n] to [..., m]."""


def gated(state: Tensor, fc1: Layer, fc2: Layer, fc3: Layer) -> Tensor:
    """p = (fc2 x + x) * sigmoid(fc3 x) with x = relu(fc1 f), from [..., d] to [..., h]: of T5."""
    x = fc1(state).relu()
    gate = fc3(x).sigmoid()
    return (fc2(x) + x) * gate


def layer_norm(state: Tensor, fc1: Layer, norm: Layer) -> Tensor:
    """p = LayerNorm(fc1 f), from [..., d] to [..., h]: of BERT."""
    return norm(fc1(state))


def linear(state: Tensor, fc1: Layer) -> Tensor:
    """p = fc1 relu(f), from [..., d] to [..., h]: of image and text retrieval."""
    return fc1(state.relu())


FEATURES: Mapping[str, Callable[..., Tensor]] = {
    "gated": gated,
    "layer_norm": layer_norm,
    "linear": linear,
}
"""What makes the feature p of a state f and the layers of its adapter, by the name of its form."""


def redundancy(features: Tensor) -> Tensor:
    """rho_k = sum_j relu(cos(p_k, p_j)) over all j, k included; `features` [..., K, h] to [..., K].

    About 1 where a feature is like no other, about K where all are the same.
    """
    norms = torch.linalg.vector_norm(features, dim=-1) + EPSILON
    cosines = features @ features.mT / (norms[..., :, None] * norms[..., None, :])
    return cosines.relu().sum(-1)


def weights(features: Tensor, guide: Tensor, attend: Tensor, bias: Tensor) -> Tensor:
    """w_k = u_k / (sum_j |u_j| + 1e-6), u_k = relu(v (p_k * q) + b) / rho_k, in [..., K].

    `features` are [..., K, h], `guide` q is [..., h], `attend` v is [h], `bias` b is [1]. The
    weights are never negative, and add up to 1 or, where every relu is 0, to 0.
    """
    # v (p * q) = p (q * v): so the products of all features are not kept for the backward pass.
    scores = (features @ (guide * attend)[..., None]).squeeze(-1) + bias
    # Only a feature of zeros has no likeness to itself; it adds nothing whatever its weight.
    used = scores.relu() / redundancy(features).clamp_min(EPSILON)
    return used / (used.abs().sum(-1, keepdim=True) + EPSILON)


def aggregate(features: Tensor, guide: Tensor, attend: Tensor, bias: Tensor) -> Tensor:
    """a = sum_k w_k p_k + q, in [..., h]; the arguments are those of `weights`."""
    share = weights(features, guide, attend, bias)
    return (share[..., None, :] @ features).squeeze(-2) + guide
