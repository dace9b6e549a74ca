"""Which backend computes: one asked for by name fails aloud, the automatic choice always works."""

import pytest
import torch

from gossamer.errors import SettingError, UnknownNameError
from gossamer.kernels.backend import choose_backend

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype", "chosen"),
    [
        ("auto", torch.float32, "cpu"),
        ("auto", torch.bfloat16, "reference"),
        ("cpu", torch.float32, "cpu"),
        ("reference", torch.float32, "reference"),
        ("reference", torch.float64, "reference"),
    ],
)
def test_choice(name, dtype, chosen):
    assert choose_backend(name, CPU, dtype) == chosen


def test_a_backend_that_cannot_compute_the_type_is_refused():
    with pytest.raises(SettingError, match=r"'cpu' computes in float32, not torch\.bfloat16"):
        choose_backend("cpu", CPU, torch.bfloat16)


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'reference'"):
        choose_backend("refrence", CPU, torch.float32)


def test_another_device_is_refused():
    with pytest.raises(SettingError, match="'cuda'"):
        choose_backend("auto", torch.device("cuda"), torch.float32)
