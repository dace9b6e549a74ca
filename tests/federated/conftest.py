import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    # On matrices this small, threads that wait for one another cost more than they bring.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
