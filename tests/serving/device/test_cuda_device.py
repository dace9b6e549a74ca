"""The device of a GPU, its calls of CUDA replaced: what is launched where, and behind what."""

import pytest
import torch
from fake_cuda import FakeCuda

from gossamer.serving.device.cuda import GRAPH_BYTES, WORKSPACE_BYTES, CudaDevice
from gossamer.serving.device.cuda_copies import CudaCopier, StepEvents

MIB = 1024**2


@pytest.fixture
def cuda():
    return FakeCuda()


@pytest.fixture
def device(cuda):
    return CudaDevice(cuda, "triton", torch.bfloat16)


def test_an_upload_is_done_in_the_order_of_launches(cuda, device):
    target, source, seen = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), []
    cuda.compute.push(lambda: seen.append(target.tolist()))
    ticket = device.upload(target, source)
    cuda.compute.push(lambda: seen.append(target.tolist()))
    assert not ticket.done
    ticket.join()
    assert ticket.done
    cuda.run_until()
    assert seen == [[0, 0, 0], [1, 2, 3]]
    assert device.upload(target, target).done


def test_a_fetch_sees_what_was_launched_before_it_and_nothing_later(cuda, device):
    tensor = torch.zeros(2, 3)
    cuda.compute.push(lambda: tensor.fill_(5))
    fetch = device.fetch(tensor)
    cuda.compute.push(lambda: tensor.fill_(9))
    assert torch.equal(fetch.result(), torch.full((2, 3), 5.0))
    cuda.run_until()
    assert torch.equal(fetch.result(), torch.full((2, 3), 5.0))


def test_a_graph_is_captured_once_for_a_key_and_replayed_on_the_stream_of_steps(cuda, device):
    log, calls = [], []

    def body():
        calls.append(1)
        cuda.current.push(lambda: log.append("node"))

    cuda.compute.push(lambda: log.append("before"))
    run = device.graph(("decode", 8), body)
    assert device.graph(("decode", 8), body) == run
    assert len(calls) == 2, "once to compile, once to capture"
    cuda.run_until()
    assert log == ["before", "node"], "the first run waits for what the body may read"
    cuda.compute.push(lambda: log.append("upload"))
    run()
    run()
    assert len(calls) == 2
    cuda.run_until()
    assert log[2:] == ["upload", "node", "node"]
    assert cuda.graphs[0].options == ("one pool", "thread_local")
    device.graph(("decode", 16), body)
    assert len(cuda.graphs) == 2
    run()
    device.forget_graphs()
    assert cuda.compute.is_idle, "what is running is not taken away"
    device.graph(("decode", 8), body)
    assert len(cuda.graphs) == 3


def test_steps_wait_for_the_first_run_of_a_graph(cuda, device):
    log = []
    device.graph("key", lambda: cuda.current.push(lambda: log.append("node")))
    cuda.compute.push(lambda: log.append("next step"))
    cuda.run_until()
    assert log == ["node", "next step"]


def test_a_capture_that_fails_is_ended_and_not_kept(cuda, device):
    def body():
        if cuda.current.is_capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="not permitted"):
            device.graph("key", body)
    assert all(stream.is_capturing is None for stream in cuda.streams)
    assert cuda.current is cuda.compute
    assert len(cuda.graphs) == 2


@pytest.mark.parametrize(
    ("free", "kept", "most", "usual"),
    [
        (80_000, 0, 80_000 - 1024, 72_000),
        (80_000, 10_000, 80_000 - 1024, 63_000),
        (6_000, 0, 6_000 - 1024, 6_000 - 1024),
        (1_000, 0, 0, 0),
        (2_000, 5_000, 2_000 - 1024, 0),
    ],
)
def test_the_pool_leaves_room_for_steps_and_graphs(cuda, device, free, kept, most, usual):
    assert WORKSPACE_BYTES + GRAPH_BYTES == 1024 * MIB
    cuda.free = free * MIB
    assert device.memory_for_pool() == most * MIB
    assert device.usual_memory(kept * MIB) == usual * MIB


def test_what_it_is(device):
    assert device.overlaps
    assert (device.backend, device.dtype) == ("triton", torch.bfloat16)
    assert device.pool_memory(3, 256).shape == (768,)
    assert device.host_empty(5, torch.int16).dtype == torch.int16
    assert torch.get_float32_matmul_precision() == "highest"


def test_events_of_steps_that_are_done_are_dropped(cuda):
    steps = StepEvents(cuda)
    for number in range(1, 6):
        cuda.compute.push(lambda: None)
        steps.record()
        assert steps.launched == number
    assert all(steps.of(number) is not None for number in range(1, 6))
    assert steps.of(0) is None
    steps.of(3).synchronize()
    steps.record()
    assert [steps.of(number) is None for number in range(7)] == [True] * 4 + [False] * 3
    with pytest.raises(AssertionError, match="step 7 was not launched"):
        steps.of(7)


class Writes:
    """Writes `number` into its blocks, one after the other; fails behind the first if told so."""

    def __init__(self, cuda, number, error=None):
        self.cuda, self.number, self.error = cuda, number, error

    def place(self, pool, blocks):
        for block in blocks:
            self.cuda.current.push(lambda block=block: pool[block].fill_(self.number))
            if self.error is not None:
                raise self.error
        return ("table", self.number)


def test_a_copy_runs_beside_later_steps_and_behind_the_one_it_is_told_of(cuda):
    steps, pool = StepEvents(cuda), torch.zeros(4, dtype=torch.uint8)
    copier = CudaCopier(cuda, pool, steps)
    read = []
    cuda.compute.push(lambda: read.append(pool.tolist()))
    steps.record()
    cuda.compute.push(lambda: read.append("later"))
    steps.record()
    ticket = copier.place(Writes(cuda, 7), [1, 2], after=1)
    side = cuda.streams[-1]
    assert not side.advance(), "step 1 has not run"
    cuda.compute.advance()
    cuda.compute.advance()
    while side.advance():
        pass
    assert ticket.done
    assert ticket.result() == ("table", 7)
    assert pool.tolist() == [0, 7, 7, 0]
    assert read == [[0, 0, 0, 0]], "step 2 need not have run"


def test_steps_wait_for_a_ticket_where_they_are_told_to(cuda):
    steps, pool = StepEvents(cuda), torch.zeros(4, dtype=torch.uint8)
    ticket = CudaCopier(cuda, pool, steps).place(Writes(cuda, 7), [1, 2], after=0)
    ticket.wait()
    read = []
    cuda.compute.push(lambda: read.append(pool.tolist()))
    while cuda.compute.advance():
        pass
    assert read == []
    ticket.join()
    cuda.run_until()
    assert read == [[0, 7, 7, 0]]


def test_a_copy_that_fails_writes_nothing_after_it_has_told_so(cuda):
    pool = torch.zeros(4, dtype=torch.uint8)
    copier = CudaCopier(cuda, pool, StepEvents(cuda))
    with pytest.raises(MemoryError):
        copier.place(Writes(cuda, 7, MemoryError()), [1, 2], after=0)
    assert pool.tolist() == [0, 7, 0, 0]
    assert cuda.current is cuda.compute
    assert not cuda.advance()
