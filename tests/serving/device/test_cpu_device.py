"""The device of the processor: one memory, and everything done when it was called."""

import torch

from gossamer.serving.device.cpu import CpuDevice


class Bytes:
    """Rows that write their number into their blocks."""

    def __init__(self, number):
        self.number = number

    def place(self, pool, blocks):
        view = pool.view(-1, 64)
        view[blocks] = self.number
        return ("table of", self.number)


def test_the_pool_is_bytes_that_can_be_written():
    pool = CpuDevice("cpu").pool_memory(5, 4096)
    assert pool.dtype == torch.uint8
    assert pool.shape == (5 * 4096,)
    assert pool.data_ptr() % 256 == 0
    pool.fill_(7)
    assert int(pool.sum(dtype=torch.int64)) == 7 * 5 * 4096


def test_copies_are_done_when_they_return():
    device = CpuDevice("reference")
    copier = device.copier(device.pool_memory(4, 64))
    ticket = copier.place(Bytes(9), [1, 3], after=0)
    assert ticket.done
    assert ticket.result() == ("table of", 9)
    assert copier.pool.view(4, 64)[:, 0].tolist() == [0, 9, 0, 9]


def test_an_upload_copies_unless_both_are_the_same_memory():
    device = CpuDevice("reference")
    source, target = torch.arange(4.0), torch.zeros(4)
    assert device.upload(target, source).done
    assert torch.equal(target, source)
    version = source._version
    device.upload(source, source)
    device.upload(source[:2], source[:2])
    assert source._version == version


def test_a_fetch_is_the_tensor_and_a_graph_its_body():
    device = CpuDevice("reference")
    tensor, calls = torch.ones(3), []
    assert device.fetch(tensor).result() is tensor
    run = device.graph("key", lambda: calls.append(1))
    assert calls == []
    run()
    run()
    assert calls == [1, 1]


def test_steps_are_counted():
    device = CpuDevice("cpu")
    assert device.launched() == 0
    device.step_launched()
    device.step_launched()
    assert device.launched() == 2
    assert not device.overlaps


def test_the_pool_takes_a_quarter_of_what_is_free_and_four_gib_at_most(monkeypatch):
    device, gib = CpuDevice("cpu"), 1024**3
    for free, kept, usual in ((8, 0, 2), (8, 4, 1), (64, 0, 4), (2, 3, 0)):
        monkeypatch.setattr("gossamer.serving.device.cpu.usable_memory", lambda f=free: f * gib)
        assert device.usual_memory(kept * gib) == usual * gib
        assert device.memory_for_pool() == free * gib
