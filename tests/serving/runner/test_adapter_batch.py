"""The adapters' part of a batch: what is kept from one step to the next, and what never is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer.kernels.grouped_lora import LoraTable, RowFormat
from gossamer.kernels.hidden_edit import EditTable
from gossamer.serving.core.adapter import AdapterEntry, Blend
from gossamer.serving.core.messages import Request
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.packing.resident import Resident
from gossamer.serving.runner.lowering.adapters import AdapterBatchBuilder, residents_of
from gossamer.serving.runner.lowering.threads import AdapterChunks
from gossamer.serving.scheduler.step import ScheduledChunk

PROMPT = 10


def lora_table(rank):
    return LoraTable(
        first_row=np.zeros(1, dtype=np.int64),
        rank=np.array([rank], dtype=np.int32),
        scale=np.ones(1, dtype=np.float32),
        offsets=np.arange(2 * rank, dtype=np.int64),
        row_scale=np.ones(2 * rank, dtype=np.float32),
        format=RowFormat.FLOAT32,
    )


def edit_table():
    return EditTable(
        first_row=np.zeros((1, 2), dtype=np.int64),
        rank=np.ones((1, 2), dtype=np.int32),
        offsets=np.zeros(3, dtype=np.int64),
        first_positions=2,
        last_positions=0,
    )


def entry(resident):
    made = AdapterEntry(name="a", path=Path(), signature=())
    made.start_reading()
    made.finish_reading(object())
    made.start_placing([])
    made.finish_placing(resident, 0.0)
    return made


def chunk(adapter, count=1, computed=PROMPT):
    sequence = Sequence(
        request=Request(request_id="r", prompt_token_ids=tuple(range(PROMPT))),
        adapter=adapter,
        max_new_tokens=8,
        token_ids=list(range(PROMPT + 1)),
        blocks=[0],
    )
    sequence.num_computed = computed
    return ScheduledChunk(sequence, count)


def ranks(batch):
    """(first token, tokens, rank) of each chunk: what the kernel will meet."""
    chunks = batch.lora.chunks
    found = batch.lora.tables.rank[chunks.slot, 0].tolist()
    return sorted(zip(chunks.first.tolist(), chunks.count.tolist(), found, strict=True))


def build(builder, step, starts):
    """What adapters do in `step`: to linear layers, and to hidden states."""
    return builder.build(step, starts, [residents_of(part.sequence.adapter, None) for part in step])


def built(builder, step, starts):
    """What adapters do to linear layers in `step`."""
    return build(builder, step, starts)[0]


def test_decoding_sequences_share_what_was_built_for_the_step_before():
    builder = AdapterBatchBuilder(AdapterChunks(num_workers=2).make, torch.device("cpu"))
    step = [chunk(entry(Resident(lora=lora_table(rank)))) for rank in (4, 8)]
    first = built(builder, step, [0, 1])
    assert ranks(first) == [(0, 1, 4), (1, 1, 8)]
    assert built(builder, step, [0, 1]) is first


@pytest.mark.parametrize("change", ["adapter", "order", "count", "weights", "files"])
def test_whatever_differs_is_built_again(change):
    builder = AdapterBatchBuilder(AdapterChunks(num_workers=2).make, torch.device("cpu"))
    one, two = (entry(Resident(lora=lora_table(rank))) for rank in (4, 8))
    assert ranks(built(builder, [chunk(one), chunk(two)], [0, 1])) == [(0, 1, 4), (1, 1, 8)]
    if change == "adapter":
        other = entry(Resident(lora=lora_table(3)))
        assert ranks(built(builder, [chunk(one), chunk(other)], [0, 1])) == [(0, 1, 4), (1, 1, 3)]
    if change == "order":
        assert ranks(built(builder, [chunk(two), chunk(one)], [0, 1])) == [(0, 1, 8), (1, 1, 4)]
    if change == "count":
        step = [chunk(one, 3, 0), chunk(two)]
        assert ranks(built(builder, step, [0, 3])) == [(0, 3, 4), (3, 1, 8)]
    if change == "weights":
        blends = [Blend((one, two), (weight, 1 - weight)) for weight in (0.25, 0.5)]
        weights = [
            sorted(built(builder, [chunk(blend)], [0]).lora.chunks.weight.tolist())
            for blend in blends
        ]
        assert weights == [[0.25, 0.75], [0.5, 0.5]]
    if change == "files":
        one.table = Resident(lora=lora_table(5))
        assert ranks(built(builder, [chunk(one), chunk(two)], [0, 1])) == [(0, 1, 5), (1, 1, 8)]


def test_edits_follow_the_positions_of_each_step():
    builder = AdapterBatchBuilder(AdapterChunks(num_workers=1).make, torch.device("cpu"))
    adapter = entry(Resident(edit=edit_table()))
    edited = build(builder, [chunk(adapter, 1, computed=0)], [0])[1]
    assert edited.token.tolist() == [0]
    # The next position of the prompt is edited too, and none that was generated.
    assert build(builder, [chunk(adapter, 1, computed=1)], [0])[1].token.tolist() == [0]
    assert build(builder, [chunk(adapter, 1, computed=5)], [0])[1] is None
    assert build(builder, [chunk(adapter)], [0])[1] is None
