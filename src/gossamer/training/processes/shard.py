"""Divides the base model among the processes of a run, so that none holds all of its layers.

The weights of the decoder blocks lie in equal parts in all processes, and a block's are gathered
while it computes (PyTorch's FSDP2, `fully_shard`). They are frozen, so nothing of them is reduced.
What learns is small: every process holds it whole, and DDP sums its gradients as in a run that
divides nothing. Embeddings and the output head stay whole as well.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gossamer.methods.common.ranks import world
from gossamer.methods.common.targets import find_blocks


def shard_blocks(model: nn.Module, base: Iterable[nn.Parameter], device: str) -> nn.Module:
    """Divide the frozen weights of the decoder blocks of `model` among all processes, and move the
    rest to `device` ("cpu" or "cuda:N"). `base`: the weights of the model before a method was
    applied; what the method has added stays whole, frozen or not.

    One block after the other is moved, so no more than one is whole on the device. Raises
    `UnsupportedAdapterError` if the model has no list of blocks.
    """
    path, blocks = find_blocks(model, "shard_base")
    mesh = init_device_mesh(torch.device(device).type, (world(),))
    divided = {parameter for parameter in base if not parameter.requires_grad}
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=set(block.parameters()) - divided)
    # What holds the blocks is made the root of them all, with no weights of its own: the blocks'
    # transfers are then put in order, and the next block's overlaps with the computation.
    root = model.get_submodule(path.rpartition(".")[0])
    rest = {parameter for parameter in root.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(root, mesh=mesh, ignored_params=rest)
    return model.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Whether parts of `model` lie in other processes: a forward pass then needs all of them."""
    return any(True for _ in _sharded(model))


def leave_to_fsdp(model: nn.Module) -> None:
    """Have DDP, which is going to wrap `model`, pass over what FSDP2 holds."""
    # The way that PyTorch names for it, though it is no public one.
    wrapper: Any = DistributedDataParallel
    wrapper._set_params_and_buffers_to_ignore_for_model(model, list(_sharded(model)))


def _sharded(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            yield name
