"""Steps of a whole model of random weights, or of none, as the engine's runner computes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.kinds.low_rank import Factors
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence as Served
from gossamer.serving.device.device import Device
from gossamer.serving.packing.device_tables import pack_tables
from gossamer.serving.packing.packer import HostAdapter
from gossamer.serving.packing.resident import Resident
from gossamer.serving.packing.rows import RowPacker
from gossamer.serving.packing.target import PackTarget
from gossamer.serving.packing.vectors import Empty, host_empty
from gossamer.serving.runner.attach import base_shape
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.lowering.programs import ProgramLowering
from gossamer.serving.runner.model_runner import PagedModel
from gossamer.serving.scheduler.step import ScheduledChunk

BLOCK_TOKENS = 16


def llama_3_8b(num_layers: int = 32) -> LlamaConfig:
    """Its shapes."""
    return LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=num_layers,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
        rms_norm_eps=1e-5, max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip


def tiny_llama() -> LlamaConfig:
    """One whose programs the interpreter runs in milliseconds."""
    return LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=64, max_position_embeddings=512,
    )  # fmt: skip


class Steps:
    """A Llama taken over by the runner, on a device whose backend is Triton."""

    def __init__(self, config: LlamaConfig, device: Device, num_blocks: int) -> None:
        with torch.device(device.torch_device):
            model = AutoModelForCausalLM.from_config(config, dtype=device.dtype).eval()
        embedding = model.get_input_embeddings().weight.nbytes
        self.weight_bytes = sum(p.nbytes for p in model.parameters()) - embedding
        """What a step reads of the weights; of the embedding it reads a few rows."""
        self.layout = KvLayout(
            num_layers=config.num_hidden_layers, num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim, block_tokens=BLOCK_TOKENS, dtype=device.dtype,
        )  # fmt: skip
        self.pool = device.pool_memory(num_blocks, self.layout.block_bytes)
        self.lowering = ProgramLowering(device, block_tokens=BLOCK_TOKENS)
        self.model = PagedModel(model, self.pool, self.layout, device, RowFormat.BFLOAT16)
        self.builder = BatchBuilder(block_tokens=BLOCK_TOKENS, lowering=self.lowering)
        self.network, self.device = model, device

    def prepare(self, chunks: Sequence[ScheduledChunk]) -> Callable[[], Tensor]:
        """Build a step; returns what computes its logits, each time that it is called."""
        batch = self.builder.build(list(chunks))
        return lambda: self.model.run(batch)

    @property
    def shape(self) -> BaseShape:
        """The sizes that an adapter must fit."""
        return base_shape(self.network.config, self.model.modules)

    def pack_random(
        self, rank: int, targets: Sequence[str], seed: int = 0, empty: Empty = host_empty
    ) -> HostAdapter:
        """Return a low-rank adapter of the modules of those names, its rows in bfloat16.

        empty: allocates its host memory.
        """
        generator = torch.Generator().manual_seed(seed)
        factors = {
            path: Factors(
                torch.randn(rank, h_in, generator=generator) / h_in**0.5,
                torch.randn(h_out, rank, generator=generator) / 10,
                1.0,
            )
            for path, (h_out, h_in) in self.shape.linears.items()
            if path.rpartition(".")[2] in targets
        }
        modules = self.model.modules
        packer = RowPacker(modules.ids, self.layout.block_bytes, RowFormat.BFLOAT16, empty=empty)
        target = PackTarget(
            base=self.shape, module_ids=modules.ids, linears=modules.linears, layout=self.layout,
            rows=packer, empty=empty,
        )  # fmt: skip
        parts = {"lora": packer.pack_factors(factors)}
        return HostAdapter(parts=dict(parts), tables=pack_tables("random", dict(parts), target))


def entry_of(resident: Resident, name: str = "adapter") -> AdapterEntry:
    """Return an adapter that is in the pool as `resident`."""
    entry = AdapterEntry(name=name, path=Path(), signature=())
    entry.start_reading()
    entry.finish_reading(_NOTHING)
    entry.start_placing([])
    entry.finish_placing(resident, 0.0)
    return entry


_NOTHING: Any = object()
"""Stands for rows in host memory, which steps do not look at."""


def chunk(
    adapter: AdapterEntry | None, *, computed: int, count: int = 1, first_block: int = 0,
    token: int = 1,
) -> ScheduledChunk:  # fmt: skip
    """`count` tokens, all `token`, of a sequence with `computed` earlier ones."""
    total = computed + count
    sequence = Served(
        request=Request(request_id="r", prompt_token_ids=(token,) * total),
        adapter=adapter,
        max_new_tokens=8,
        token_ids=[token] * total,
        blocks=list(range(first_block, first_block + blocks_for(total))),
    )
    sequence.num_computed = computed
    return ScheduledChunk(sequence, count)


def blocks_for(tokens: int) -> int:
    """Return the blocks that a sequence of so many tokens takes."""
    return -(-tokens // BLOCK_TOKENS)
