"""Single operations of the Triton backend with static arrays, on any device and of any size."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from gossamer.kernels.attention_work import arrays_of
from gossamer.kernels.bundles import Grid, make_bundles
from gossamer.kernels.gain.triton_kernels import TritonInputGain
from gossamer.kernels.gated_activation.triton_kernels import silu_and_multiply
from gossamer.kernels.grouped_lora.triton_kernels import TritonGroupedLora
from gossamer.kernels.paged_attention import AttentionBatch, KvLayout
from gossamer.kernels.paged_attention.triton_launches import TritonPagedAttention
from gossamer.kernels.runs import Run
from gossamer.kernels.scratch import ScratchMemory
from gossamer.kernels.sparse_delta.triton_kernels import TritonSparseDelta


@dataclass(frozen=True)
class Sizes:
    """Of the layers, and of a step."""

    h_in: int
    widths: tuple[int, ...]
    """Outputs of q, k and v; heads of `head_dim`."""
    head_dim: int
    inner: int
    """Outputs of the gate."""
    tokens: int
    dtype: torch.dtype
    device: str


TINY = Sizes(48, (64, 32, 32), 16, 40, 4, torch.float32, "cpu")
LLAMA_3_8B = Sizes(4096, (4096, 1024, 1024), 128, 14336, 64, torch.bfloat16, "meta")


@dataclass(frozen=True)
class Case:
    """An operation whose step can be changed between runs."""

    body: Callable[[], object]
    stays: dict[str, Any]
    """Memory that outlives a step, by name."""
    refill: Callable[[int], None]
    """Puts another step of the same bucket, which the number names, into the static arrays."""


def copy_fields(into: Any, source: Any) -> None:
    """Copy the tensors of a dataclass into those of another of the same kind."""
    for field in fields(into):
        value = getattr(into, field.name)
        if isinstance(value, torch.Tensor):
            value.copy_(getattr(source, field.name))


def tensors_of(arrays: Any) -> list[torch.Tensor]:
    """The tensors of a dataclass."""
    values = [getattr(arrays, field.name) for field in fields(arrays)]
    return [value for value in values if isinstance(value, torch.Tensor)]


def bundles_of(sizes: Sizes, step: int) -> Any:
    """Tokens with adapters that change with the step, one token without, in one grid.

    All tables lie where the pool holds zeros: adapters of rank 0.
    """
    runs = [Run(token, 1, (token + step) % 3) for token in range(sizes.tokens - step % 2)]
    grid = Grid(sizes.tokens, 2 * sizes.tokens, 2 * sizes.tokens)
    return make_bundles(runs, [0, 256, 512], [3, 2, 1], 8, grid).to(torch.device(sizes.device))


def _states(sizes: Sizes, *shape: int) -> torch.Tensor:
    return torch.zeros(sizes.tokens, *shape, dtype=sizes.dtype, device=sizes.device)


def _on_bundles(sizes: Sizes, operation: Any, pool: torch.Tensor, scratch: list[Any]) -> Case:
    x, y = _states(sizes, sizes.h_in), _states(sizes, sum(sizes.widths))
    bundles = bundles_of(sizes, 0)
    fixed = [value for value in vars(operation).values() if isinstance(value, torch.Tensor)]
    for value in vars(operation).values():
        if isinstance(value, dict):
            fixed += [tensor for pair in value.values() for tensor in pair]
    return Case(
        body=lambda: operation.add_(y, x, bundles),
        stays={
            "pool": pool, "x": x, "y": y, "scratch": scratch, "fixed": fixed,
            "step": tensors_of(bundles),
        },
        refill=lambda step: copy_fields(bundles, bundles_of(sizes, step)),
    )  # fmt: skip


def grouped_lora(sizes: Sizes) -> Case:
    """Low-rank rows and gains of q, k and v."""
    pool = torch.zeros(4096, dtype=torch.uint8, device=sizes.device)
    scratch = ScratchMemory(pool.device)
    # As after a first step: what is made inside of a graph is not to stay.
    kept = scratch.take(2**16)
    operation = TritonGroupedLora(pool, [0, 1, 2], sizes.widths, sizes.h_in, scratch)
    return _on_bundles(sizes, operation, pool, [kept])


def sparse_delta(sizes: Sizes) -> Case:
    """Sparse changes of q, k and v."""
    pool = torch.zeros(4096, dtype=torch.uint8, device=sizes.device)
    return _on_bundles(sizes, TritonSparseDelta(pool, [0, 1, 2], sizes.widths), pool, [])


def attention_decode(sizes: Sizes) -> Case:
    """Tokens of sequences that grow by a place from step to step, within one split."""
    heads, kv_heads = (width // sizes.head_dim for width in sizes.widths[:2])
    layout = KvLayout(
        num_layers=2, num_kv_heads=kv_heads, head_dim=sizes.head_dim, block_tokens=16,
        dtype=sizes.dtype,
    )  # fmt: skip
    device, count = torch.device(sizes.device), sizes.tokens
    pool = torch.zeros(2 * count * layout.block_bytes, dtype=torch.uint8, device=device)

    def arrays(step: int) -> Any:
        sequence = np.arange(count, dtype=np.int32)
        positions = (sequence % 5 + 10 + step).astype(np.int32)
        tables = (np.arange(2 * count).reshape(count, 2) + step) % (2 * count)
        batch = AttentionBatch(
            positions=positions,
            sequence_start=np.zeros(count, np.int32),
            token_sequence=sequence,
            token_block=tables[sequence, positions // 16].astype(np.int32),
            token_index=positions % 16,
            block_tables=tables.astype(np.int32),
            short_tokens=sequence,
            short_bounds=np.zeros(1, np.int32),
            long_chunks=(),
        )
        return arrays_of(batch, device, decodes=count, splits=2 * count)

    static = arrays(0)
    attention = TritonPagedAttention(pool, layout)
    scratch = [each.take(2**16) for each in attention.scratch]
    query = _states(sizes, heads, sizes.head_dim)
    key, value = (_states(sizes, kv_heads, sizes.head_dim) for _ in range(2))
    return Case(
        body=lambda: attention(static, 1, query, key, value, sizes.head_dim**-0.5),
        stays={
            "pool": pool, "states": [query, key, value], "scratch": scratch,
            "step": tensors_of(static),
        },
        refill=lambda step: copy_fields(static, arrays(step)),
    )  # fmt: skip


def gate(sizes: Sizes) -> Case:
    """The gate; nothing of it depends on the step."""
    gate_up = _states(sizes, 2 * sizes.inner)
    return Case(
        body=lambda: silu_and_multiply(gate_up), stays={"states": gate_up}, refill=lambda step: None
    )


def input_gain(sizes: Sizes) -> Case:
    """Factors of the inputs of `down_proj`; the tables are those of `bundles_of`."""
    pool = torch.zeros(4096, dtype=torch.uint8, device=sizes.device)
    operation, x = TritonInputGain(pool, 1), _states(sizes, sizes.inner)
    table = torch.full((sizes.tokens,), -1, dtype=torch.int64, device=sizes.device)
    return Case(
        body=lambda: operation.scaled_inputs(x, table),
        stays={"pool": pool, "states": x, "step": table},
        refill=lambda step: table.fill_(256 * step),
    )


CASES = {
    "grouped_lora": grouped_lora,
    "sparse_delta": sparse_delta,
    "attention_decode": attention_decode,
    "gate": gate,
    "input_gain": input_gain,
}
