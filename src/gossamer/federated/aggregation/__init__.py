"""Ways to make one adapter of what clients have learnt, by name. None of them knows a network.

tensors     what clients send, pairs of factors among it, weighted means, products and their SVD
fedit       the mean of each factor, and of whatever else learns
ffa         A stays as it began, the mean of B
rolora      the mean of B in one round, of A in the next
flora       the product of each client is added to the base, and clients begin again
fedex       the mean of each factor, and what it misses is added to the base
flex        the mean of the products, cut to each client's rank by an SVD
zero_pad    the mean of each factor, filled up with zeros where a client's rank is lower
"""

from importlib import import_module

from gossamer.errors import UnknownNameError
from gossamer.federated.aggregation.base import Aggregation

TABLE = {
    "fedit": "gossamer.federated.aggregation.fedit:Fedit",
    "ffa": "gossamer.federated.aggregation.ffa:Ffa",
    "rolora": "gossamer.federated.aggregation.rolora:Rolora",
    "flora": "gossamer.federated.aggregation.flora:Flora",
    "fedex": "gossamer.federated.aggregation.fedex:Fedex",
    "flex": "gossamer.federated.aggregation.flex:Flex",
    "zero-pad": "gossamer.federated.aggregation.zero_pad:ZeroPad",
}
"""Name -> module and class."""


def find_aggregation(name: str) -> Aggregation:
    """Make the aggregation of that name; raises `UnknownNameError` naming the nearest."""
    if name not in TABLE:
        raise UnknownNameError.among("aggregation", name, TABLE)
    module, _, kind = TABLE[name].partition(":")
    made: Aggregation = getattr(import_module(module), kind)()
    return made
