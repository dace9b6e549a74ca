"""Zero padding: the mean of each factor, clients of lower rank filled up with zeros."""

from gossamer.federated.aggregation.fedit import Fedit


class ZeroPad(Fedit):
    """The mean of each factor with ranks that may differ, as in HetLoRA without its pruning: a
    client takes the first components that its rank holds, and counts with zeros in the others."""

    name = "zero-pad"
