"""FLoRA: all clients' factors are stacked and added to the base (arXiv 2409.05976)."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.federated.aggregation.base import Aggregation, Combined
from gossamer.federated.aggregation.tensors import (
    Tensors,
    Upload,
    client_pairs,
    pair_names,
    part_of,
    sum_of,
)


class Flora(Aggregation):
    """The base grows by scale * sum w_i B_i A_i, exactly; clients then begin as LoRA does, each
    with its own rank. What is added has the sum of all ranks as its rank, every round."""

    name = "flora"
    exact = True

    def combine(
        self, before: Mapping[str, Tensor], uploads: Sequence[Upload], *, seed: int
    ) -> Combined:
        weights = [upload.weight for upload in uploads]
        merged = {
            path: sum_of(client_pairs(names, before, uploads), weights)
            for path, names in pair_names(before).items()
        }
        return Combined(fresh_factors(before, seed=seed), merged, drawn=True)


def fresh_factors(like: Mapping[str, Tensor], *, seed: int) -> Tensors:
    """Draw factors as LoRA begins with them: A evenly from (-1 / sqrt(h_in), 1 / sqrt(h_in)), B
    zero. The same seed and names give the same numbers everywhere."""
    drawn = {}
    for name, tensor in like.items():
        fresh = torch.zeros_like(tensor)
        if part_of(name) == "A":
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            bound = 1 / math.sqrt(tensor.shape[1])
            fresh.copy_(torch.rand(tensor.shape, generator=generator).mul(2 * bound).sub(bound))
        drawn[name] = fresh
    return drawn
