"""Which backend computes: one asked for by name fails aloud, the automatic choice always works."""

import pytest
import torch

from gossamer.errors import SettingError, UnknownNameError
from gossamer.kernels.backend import choose_backend

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "dtype", "chosen"),
    [
        ("auto", torch.float32, "cpu"),
        ("auto", torch.bfloat16, "reference"),
        ("cpu", torch.float32, "cpu"),
        ("reference", torch.float32, "reference"),
        ("reference", torch.float64, "reference"),
        ("reference", torch.bfloat16, "reference"),
    ],
)
def test_choice(name, dtype, chosen):
    assert choose_backend(name, CPU, dtype) == chosen


@pytest.mark.parametrize(
    ("name", "dtype", "chosen"),
    [
        ("auto", torch.float32, "triton"),
        ("auto", torch.bfloat16, "triton"),
        ("triton", torch.float16, "triton"),
        ("reference", torch.bfloat16, "reference"),
    ],
)
def test_choice_on_a_gpu(name, dtype, chosen):
    assert choose_backend(name, GPU, dtype) == chosen


def test_triton_on_a_cpu_is_interpreted_or_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        SettingError, match=r"needs a GPU; on a CPU use backend=cpu, or .*INTERPRET"
    ):
        choose_backend("triton", CPU, torch.float32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("triton", CPU, torch.bfloat16) == "triton"
    assert choose_backend("auto", CPU, torch.float32) == "cpu"


def test_triton_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr("gossamer.kernels.backend.find_spec", lambda name: None)
    for name in ("auto", "triton"):
        with pytest.raises(SettingError, match="needs the package triton"):
            choose_backend(name, GPU, torch.float32)
    assert choose_backend("reference", GPU, torch.float32) == "reference"


def test_a_backend_that_cannot_compute_the_type_is_refused():
    with pytest.raises(SettingError, match="in float32, not bfloat16; use dtype=float32, or"):
        choose_backend("cpu", CPU, torch.bfloat16)


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'reference'"):
        choose_backend("refrence", CPU, torch.float32)


def test_kernels_of_the_processor_are_refused_on_a_gpu():
    with pytest.raises(SettingError, match="'cpu' does not compute on 'cuda:0'; use backend=trit"):
        choose_backend("cpu", GPU, torch.float32)
