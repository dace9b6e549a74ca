"""Adapters that act on the states between decoder blocks: side networks, and pairs of streams."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.kernels.trained_parts.side_network import SideTable, side_feature, side_output
from gossamer.kernels.trained_parts.streams import Streams, StreamTable
from gossamer.serving.runner.lowering.part_batch import PartBatch


class BlockParts:
    """Lets adapters act on the decoder blocks of a model while a step is computed that needs it.

    Other steps find the blocks as if this were not there.
    """

    def __init__(self, blocks: Sequence[nn.Module], pool: Tensor) -> None:
        self._blocks = blocks
        self._pool = pool.view(torch.float32)

    def acting(self, parts: PartBatch | None) -> AbstractContextManager[None]:
        """Act on the states of the tokens of `parts` while the model computes their step, once."""
        if parts is None or not parts.act_between_blocks:
            return nullcontext()
        return self._acting(parts)

    @contextmanager
    def _acting(self, parts: PartBatch) -> Iterator[None]:
        with ExitStack() as stack:
            for first, count, table in parts.sides:
                side = _Side(slice(first, first + count), self._pool, table)
                self._watch(stack, 0, side.begin)
                for number, layer in enumerate(table.layers, start=1):
                    self._follow(stack, self._blocks[layer], partial(side.add, number))
            for first, count, streams in parts.streams:
                self._run(stack, _Pair(slice(first, first + count), self._pool, streams))
            yield

    def _run(self, stack: ExitStack, pair: "_Pair") -> None:
        """Have the blocks of the streams tell `pair` what they compute."""
        self._watch(stack, 0, pair.begin)
        for block in self._blocks[: pair.num_layers]:
            parts: Any = block
            self._follow(stack, parts.self_attn, pair.after_attention)
            stack.callback(
                parts.post_attention_layernorm.register_forward_pre_hook(pair.before_norm).remove
            )
            self._follow(stack, parts.mlp, pair.after_mlp)
            self._follow(stack, block, pair.after_block)

    def _watch(self, stack: ExitStack, layer: int, see: Callable[[Tensor], None]) -> None:
        """Let `see` have what goes into a block, [T, d], which it may change."""

        def hook(block: nn.Module, args: Any, named: Any) -> None:
            hidden = args[0] if args else named["hidden_states"]
            see(hidden[0])

        handle = self._blocks[layer].register_forward_pre_hook(hook, with_kwargs=True)
        stack.callback(handle.remove)

    def _follow(
        self, stack: ExitStack, module: nn.Module, see: Callable[[Any, Tensor], None]
    ) -> None:
        """Let `see` have what is given to a module, and what comes out, [T, d], which it may
        change."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            out = output if isinstance(output, Tensor) else output[0]
            see(args, out[0])

        stack.callback(module.register_forward_hook(hook).remove)


class _Side:
    """One side network in one step."""

    def __init__(self, tokens: slice, pool: Tensor, table: SideTable) -> None:
        self._tokens = tokens
        self._pool = pool
        self._table = table
        self._features: list[Tensor] = []

    def begin(self, hidden: Tensor) -> None:
        """What goes into the first block, [T, d], is the first state."""
        self._read(0, hidden)

    def add(self, number: int, args: Any, hidden: Tensor) -> None:
        """Read the output [T, d] of a block, the state of this number; behind the last one of all,
        put in its place what the network makes."""
        self._read(number, hidden)
        if number == len(self._table.layers):
            last = hidden[self._tokens]
            last.copy_(side_output(self._features, last, self._pool, self._table))

    def _read(self, number: int, hidden: Tensor) -> None:
        state = hidden[self._tokens]
        self._features.append(side_feature(state, self._pool, self._table, number))


class _Pair:
    """Two streams in one step; the rows of their tokens are written where the model reads them."""

    def __init__(self, tokens: slice, pool: Tensor, table: StreamTable) -> None:
        self._tokens = tokens
        self._pool = pool
        self._table = table
        self._left = self.num_layers = len(table.layers)
        self._streams: Streams

    def begin(self, hidden: Tensor) -> None:
        """Both streams begin as what goes into the first block, [T, d]."""
        rows = hidden[self._tokens]
        # A copy: the rows are written below, and streams as wide as they are would be the same.
        self._streams = Streams(rows.clone(), self._pool, self._table)
        rows.copy_(self._streams.read())

    def after_attention(self, args: Any, out: Tensor) -> None:
        """Take what attention has made, [T, d]."""
        self._normed = self._streams.after_attention(out[self._tokens])

    def before_norm(self, norm: nn.Module, args: Any) -> None:
        """Give the norm in front of the MLP what it is to read."""
        args[0][0, self._tokens] = self._normed.to(args[0].dtype)

    def after_mlp(self, args: Any, out: Tensor) -> None:
        """Take what the MLP has read and made, [T, d] each."""
        self._streams.after_mlp(args[0].reshape(out.shape)[self._tokens], out[self._tokens])
        self._left -= 1

    def after_block(self, args: Any, hidden: Tensor) -> None:
        """Give the next block what it is to read."""
        streams = self._streams
        hidden[self._tokens] = (streams.read() if self._left else streams.mean()).to(hidden.dtype)
