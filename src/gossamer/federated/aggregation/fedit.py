"""FedIT: the mean of each factor by itself (arXiv 2305.05644)."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.federated.aggregation.base import Aggregation, Combined
from gossamer.federated.aggregation.tensors import Upload, mean_of


class Fedit(Aggregation):
    """A = sum w_i A_i and B = sum w_i B_i, and the mean of whatever else learns.

    It misses sum w_i (B_i - B)(A_i - A) of the mean of the products. SLoRA's stages and FeDeRA
    aggregate like this.
    """

    name = "fedit"
    exact = False
    sums_only = True

    def combine(
        self, before: Mapping[str, Tensor], uploads: Sequence[Upload], *, seed: int
    ) -> Combined:
        return Combined({name: mean_of(name, before[name], uploads) for name in before})
