"""Runs one small step before the first request, so that none waits for kernels to be compiled."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from gossamer.kernels.compile import compile_kernels
from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.kernels.hidden_edit import EditTable
from gossamer.kernels.paged_attention import KvLayout
from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.messages import Request, SamplingParams
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.packing.resident import DeviceTables, Resident
from gossamer.serving.runner.lowering.programs import SIZES
from gossamer.serving.runner.model_runner import ModelRunner
from gossamer.serving.runner.sampling.sampler import SamplingState
from gossamer.serving.scheduler.step import ScheduledChunk

_PROMPT = 40
"""Tokens of a prompt for which kernels take their widest tiles."""


def warm_up(
    runner: ModelRunner,
    pool: Tensor,
    layout: KvLayout,
    most: int,
    meet: Callable[[], None] = lambda: None,
    *,
    split: bool = False,
) -> None:
    """Run a token with an adapter that does nothing, and the kernels of the other kinds.

    What is compiled is kept on disk; if something has to be, that is told. Where steps that decode
    are captured, those of up to `most` tokens are, with adapters and without. `meet` waits for the
    other ranks, since one that compiles takes longer. split: adapters are divided fully, see
    `Shard.splits_factors`.
    """
    if runner.model.backend == "triton":
        meet()
        _run_padded_steps(runner, pool, layout, most if pool.device.type == "cuda" else 1)
        return
    adapter = _entry(Resident(lora=_empty_table(len(runner.model.modules.ids))))
    if runner.model.backend != "cpu":
        meet()
        _run([_token(adapter, 0)], runner)
        return
    from gossamer.kernels.cpu import on_compilation

    with on_compilation(_tell_of_compilation):
        compile_kernels(split=split)
        meet()
        _run([_token(adapter, 0)], runner)


def _tell_of_compilation() -> None:
    print(
        "gossamer: compiling kernels for this processor; done once, half a minute or so",
        file=sys.stderr,
        flush=True,
    )


def _run_padded_steps(runner: ModelRunner, pool: Tensor, layout: KvLayout, most: int) -> None:
    """Run steps of all sizes up to `most` tokens, the largest first: it needs the most memory.

    The headers of a table without rows or changes are all zero, and so are rows that edit nothing;
    they lie in the first block, and the tokens' keys and values in the second.
    """
    pool[: layout.block_bytes].zero_()
    adapter = _entry(Resident(tables=DeviceTables(lora=0)))
    for size in sorted((size for size in SIZES if size <= most), reverse=True):
        for each in (adapter, None):
            # Twice: the first time it is computed, the second time captured.
            for _ in range(2):
                _run([_token(each, 1) for _ in range(size)], runner)
    if pool.device.type != "cpu":
        # What prompts need, and the rarer kinds: else the first request for each waits seconds.
        tables = DeviceTables(lora=0, sparse=0, scaled_inputs=frozenset({0}))
        all_kinds = _entry(Resident(tables=tables, edit=_empty_edit(layout.num_layers)))
        for count in (_PROMPT, 1):
            _run([_chunk(all_kinds, 1, count)], runner)


def _empty_table(num_modules: int) -> LoraTable:
    return LoraTable(
        first_row=np.zeros(num_modules, dtype=np.int64),
        rank=np.zeros(num_modules, dtype=np.int32),
        scale=np.zeros(num_modules, dtype=np.float32),
        offsets=np.zeros(1, dtype=np.int64),
        row_scale=np.ones(1, dtype=np.float32),
        format=RowFormat.FLOAT32,
    )


def _empty_edit(num_layers: int) -> EditTable:
    """Edits of rank 1 whose rows are zeros, at the beginning of the pool."""
    return EditTable(
        first_row=np.zeros((num_layers, 2), dtype=np.int64),
        rank=np.ones((num_layers, 2), dtype=np.int32),
        offsets=np.zeros(3, dtype=np.int64),
        first_positions=1,
        last_positions=0,
    )


def _entry(resident: Resident) -> AdapterEntry:
    """A resident adapter."""
    entry = AdapterEntry(name="warm-up", path=Path(), signature=())
    entry.start_reading()
    entry.finish_reading(resident)
    entry.start_placing([])
    entry.finish_placing(resident, 0.0)
    return entry


def _token(adapter: AdapterEntry | None, block: int) -> ScheduledChunk:
    return _chunk(adapter, block, 1)


def _chunk(adapter: AdapterEntry | None, block: int, count: int) -> ScheduledChunk:
    """`count` tokens, all of whose places are in one block: what is computed has no meaning."""
    sequence = Sequence(
        request=Request(request_id="warm-up", prompt_token_ids=(0,) * count),
        adapter=adapter,
        max_new_tokens=1,
        token_ids=[0] * count,
        blocks=[block] * count,
    )
    return ScheduledChunk(sequence, count)


def _run(chunks: list[ScheduledChunk], runner: ModelRunner) -> None:
    state = SamplingState(SamplingParams(temperature=0), ())
    runner.launch(chunks, lambda _: state).result()
