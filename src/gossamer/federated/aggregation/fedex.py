"""FedEx-LoRA: the mean of each factor, and what it misses goes into the base (arXiv 2410.09432)."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.federated.aggregation.base import Aggregation, Combined
from gossamer.federated.aggregation.tensors import (
    FactorPair,
    Upload,
    client_pairs,
    mean_of,
    pair_names,
    sum_of,
)


class Fedex(Aggregation):
    """A and B as in FedIT; the base grows by scale * (sum w_i B_i A_i - B A), so that the sum of
    both is exact and clients go on from where they were."""

    name = "fedex"
    exact = True

    def combine(
        self, before: Mapping[str, Tensor], uploads: Sequence[Upload], *, seed: int
    ) -> Combined:
        means = {name: mean_of(name, before[name], uploads) for name in before}
        weights = [*(upload.weight for upload in uploads), -1.0]
        merged = {}
        for path, names in pair_names(before).items():
            held = FactorPair(*(means[name] for name in names))
            merged[path] = sum_of([*client_pairs(names, before, uploads), held], weights)
        return Combined(means, merged)
