"""Updates under a mask, as a sparse stage leaves them."""

import torch

from gossamer.methods.common.sparse_delta.mask import random_entries


def random_update(shape, density, *, rank=None, seed=0):
    """(index, values) in float64, of noise or of a matrix of low rank under the mask."""
    generator = torch.Generator().manual_seed(seed)
    index = random_entries(seed, "m", shape, density)
    if rank is None:
        return index, torch.randn(index.shape[1], generator=generator, dtype=torch.float64)
    left = torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, shape[1], generator=generator, dtype=torch.float64)
    return index, (left @ right)[index[0].long(), index[1].long()]


def dense(index, values, shape):
    matrix = torch.zeros(shape, dtype=values.dtype)
    matrix[index[0].long(), index[1].long()] = values
    return matrix
