"""Settings to a device: what is not there is told in one sentence, and what to do instead."""

import pytest
import torch
from fake_cuda import FakeCuda

from gossamer.errors import SettingError
from gossamer.serving.device.cpu import CpuDevice
from gossamer.serving.device.cuda import CudaDevice
from gossamer.serving.device.make import find_device, make_device


def visible(monkeypatch, count, *, bf16=True):
    """Pretend that torch sees so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    made = []

    def cuda(device):
        made.append(device)
        fake = FakeCuda()
        fake.device = device
        return fake

    monkeypatch.setattr("gossamer.serving.device.make.TorchCuda", cuda)
    return made


def test_without_a_gpu_it_is_the_cpu_in_float32(monkeypatch):
    visible(monkeypatch, 0)
    for name in ("auto", "cpu"):
        device = make_device(name)
        assert isinstance(device, CpuDevice)
        assert (device.backend, device.dtype) == ("cpu", torch.float32)
        assert (device.usual_batch_tokens, device.usual_running) == (512, 64)


@pytest.mark.parametrize(
    ("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_with_gpus_it_is_one_of_them_in_bfloat16(monkeypatch, name, index):
    made = visible(monkeypatch, 2)
    device = make_device(name)
    assert isinstance(device, CudaDevice)
    assert made == [device.torch_device] == [torch.device("cuda", index)]
    assert (device.backend, device.dtype) == ("triton", torch.bfloat16)
    assert (device.usual_batch_tokens, device.usual_running) == (2048, 256)


def test_an_older_gpu_computes_in_float32_unless_told_otherwise(monkeypatch):
    visible(monkeypatch, 1, bf16=False)
    assert make_device("auto").dtype == torch.float32
    assert make_device("cuda", dtype="float16").dtype == torch.float16


def test_plain_torch_on_a_gpu(monkeypatch):
    visible(monkeypatch, 1)
    device = make_device("cuda", backend="reference", dtype="float32")
    assert (device.backend, device.dtype) == ("reference", torch.float32)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("cuda", 0, "device 'cuda' cannot be used: "),
        ("cuda:1", 0, "device 'cuda:1' cannot be used: "),
        ("cuda:2", 2, "device 'cuda:2' does not exist; the last of 2 is cuda:1"),
        ("gpu", 1, "device 'gpu' does not exist; use auto, cpu, cuda or cuda:N"),
        ("cuda:", 1, "does not exist; use auto"),
        ("cuda:x", 1, "does not exist; use auto"),
        ("cuda:-1", 1, "does not exist; use auto"),
        ("cpu:0", 1, "does not exist; use auto"),
        ("mps", 1, "does not exist; use auto"),
    ],
)
def test_what_is_not_there_is_refused(monkeypatch, name, count, words):
    visible(monkeypatch, count)
    with pytest.raises(SettingError) as caught:
        find_device(name)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("version", "words"), [(None, "this torch has no CUDA"), ("13.0", "no GPU is visible")]
)
def test_why_there_is_no_gpu(monkeypatch, version, words):
    visible(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(SettingError, match=f"{words}.*; use device=cpu"):
        make_device("cuda")


def test_a_format_that_is_unknown_or_does_not_suit_the_kernels(monkeypatch):
    visible(monkeypatch, 0)
    with pytest.raises(SettingError, match="dtype 'fp8' does not exist; use auto, float32"):
        make_device("cpu", dtype="fp8")
    with pytest.raises(SettingError, match="use dtype=float32, or backend=reference"):
        make_device("cpu", backend="cpu", dtype="bfloat16")
    device = make_device("cpu", dtype="bfloat16")
    assert (device.backend, device.dtype) == ("reference", torch.bfloat16)
