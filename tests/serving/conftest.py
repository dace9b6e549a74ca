import pytest
import torch


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Small matrices take many times longer when threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
