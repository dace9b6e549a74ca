"""Which bytes grouped LoRA touches, counted: the rows of the adapters, and each of them once."""

import pytest
import torch

from memory_traffic import SECTOR, counting
from peers import gossamer_lora
from peers.work import TOY, Factors, Work


@pytest.mark.parametrize("group", TOY, ids=[group.name for group in TOY])
def test_grouped_lora_reads_each_row_once(group):
    factors = Factors(group, Work("mixed", (16, 5, 33, 1), 64), torch.float16, "cpu")
    prepared = gossamer_lora.prepare(factors)
    with counting(prepared.buffers) as traffic:
        prepared.launch()
    assert factors.error(prepared.y) < 1e-3
    rows = traffic["rows"]
    assert rows.sectors("read") * SECTOR == rows.asked["read"] == factors.least_bytes
    assert rows.sectors("written") == 0
    y = traffic["y"]
    assert y.asked["read"] == y.asked["written"] == prepared.y.nbytes
    # Nothing is added atomically, and nothing is cleared: what is written is what is read.
    scratch = traffic["scratch"]
    assert scratch.asked["added"] == 0
    assert scratch.sectors("read") == scratch.sectors("written") > 0


def test_what_is_in_no_array_is_counted_apart():
    factors = Factors(TOY[1], Work("one", (4,), 4), torch.float16, "cpu")
    prepared = gossamer_lora.prepare(factors)
    named = {name: tensors for name, tensors in prepared.buffers.items() if name != "y"}
    with counting(named) as traffic:
        prepared.launch()
    assert traffic["other"].asked["written"] == prepared.y.nbytes
    with counting(prepared.buffers) as traffic:
        pass
    assert traffic["rows"].sectors("read") == 0
