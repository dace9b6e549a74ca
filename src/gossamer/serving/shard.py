"""Says what one rank holds of a model that several ranks compute together, and how they meet.

Each decoder block is Megatron's pair (arXiv 1909.08053): the outputs of q, k, v, gate and up are
divided among the ranks, and o and down make a partial sum of theirs, which the ranks add up: two
sums a block. Adapters are divided like the layers they act on (S-LoRA, arXiv 2311.03285, section
6): in the form in which each rank's share of an adapter joins its share of the layer, so that an
adapter adds no communication; or, where that is asked for, with low-rank factors divided fully.
How ranks add and gather is handed in with them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gossamer.basemodel.sharded import KEY_VALUE, ModelPart, Style, kv_heads_of


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank of those that compute a model together."""

    rank: int
    size: int
    all_reduce: Callable[[Tensor], None]
    """Adds up a tensor of all ranks, in place; all ranks call it in the same order."""
    gather: Callable[[Tensor, int], Tensor]
    """Puts the parts [.., n] of all ranks side by side on rank 0, [.., the number given]; the
    others get zeros."""
    all_gather: Callable[[Tensor], Tensor] = lambda part: part[None]
    """Puts the parts of all ranks, tensors of one shape, one behind the other: [size, ..]."""
    splits_factors: bool = False
    """Whether both factors of low-rank adapters are divided; else their narrow ends are copied."""

    @property
    def part(self) -> ModelPart:
        """Return what this rank loads of a model."""
        return ModelPart(self.rank, self.size)

    @property
    def is_whole(self) -> bool:
        """Whether there is only this rank."""
        return self.size == 1


def _alone(tensor: Tensor) -> None:
    """Add up the tensors of one rank."""


WHOLE = Shard(rank=0, size=1, all_reduce=_alone, gather=lambda part, total: part)
"""The one rank of a model that is computed by one process."""


@dataclass(frozen=True, slots=True)
class ModuleSlice:
    """What a rank holds of a linear layer: ranges of its outputs and of its inputs."""

    outputs: slice
    inputs: slice
    is_partial: bool = False
    """Whether what it computes is a part of a sum over the ranks."""


@dataclass(frozen=True, slots=True)
class Slices:
    """What a rank holds of a model, in numbers of the whole one."""

    modules: Mapping[str, ModuleSlice]
    """By module path, for layers that are divided."""
    kv_heads: slice
    split: ModelPart | None = None
    """The rank's part of low-rank factors whose two ends are divided; None: narrow ends are whole,
    see `Shard.splits_factors`."""

    def of(self, path: str) -> ModuleSlice:
        """Return what the rank holds of the layer at `path`."""
        return self.modules.get(path, _ALL)

    @property
    def are_whole(self) -> bool:
        """Whether nothing is divided."""
        return not self.modules


_ALL = ModuleSlice(slice(None), slice(None))
ALL = Slices({}, slice(None))
"""The whole of any model."""


def slices_of(
    shard: Shard, styles: Mapping[str, Style], shapes: Mapping[str, tuple[int, int]], kv_heads: int
) -> Slices:
    """Return what `shard` holds of layers with whole `shapes` (h_out, h_in), by module path.

    kv_heads: of the whole model; they are copied where there are fewer of them than ranks.
    """
    if shard.is_whole:
        return ALL
    own = kv_heads_of(shard.part, kv_heads)
    modules = {}
    for path, style in styles.items():
        if path not in shapes:
            continue
        h_out, h_in = shapes[path]
        if style == "row":
            inputs = _share(h_in, shard)
            modules[path] = ModuleSlice(slice(None), inputs, is_partial=True)
        elif path.rsplit(".", 1)[-1] in KEY_VALUE:
            width = h_out // kv_heads
            rows = slice(own.start * width, own.stop * width)
            modules[path] = ModuleSlice(rows, slice(None))
        else:
            modules[path] = ModuleSlice(_share(h_out, shard), slice(None))
    return Slices(
        modules=modules,
        kv_heads=slice(own.start, own.stop),
        split=shard.part if shard.splits_factors else None,
    )


def whole_shape(
    local: tuple[int, int], path: str, style: Style | None, shard: Shard, kv_heads: int
) -> tuple[int, int]:
    """Return the shape (h_out, h_in) of a layer of which `shard` holds one of shape `local`."""
    h_out, h_in = local
    if style == "row":
        return h_out, h_in * shard.size
    if style == "column":
        is_key_value = path.rsplit(".", 1)[-1] in KEY_VALUE
        return h_out * (min(shard.size, kv_heads) if is_key_value else shard.size), h_in
    return local


def _share(count: int, shard: Shard) -> slice:
    each, rest = divmod(count, shard.size)
    assert not rest, f"{count} cannot be divided among {shard.size}"
    return slice(shard.rank * each, (shard.rank + 1) * each)


class ShardedEmbedding(nn.Module):
    """An embedding of which each rank holds some rows; the ranks add up what they find."""

    def __init__(self, embedding: nn.Embedding, vocabulary: int, shard: Shard) -> None:
        """`embedding` holds this rank's rows of `vocabulary`, as torch's chunks divide them."""
        super().__init__()
        self.weight = embedding.weight
        self._low = min(shard.rank * -(-vocabulary // shard.size), vocabulary)
        self._shard = shard

    def forward(self, token_ids: Tensor) -> Tensor:
        """Map token ids [1, T] to [1, T, hidden]."""
        rows = token_ids - self._low
        is_own = (rows >= 0) & (rows < len(self.weight))
        found = functional.embedding(torch.where(is_own, rows, 0), self.weight)
        found = found * is_own[..., None]
        self._shard.all_reduce(found)
        return found
