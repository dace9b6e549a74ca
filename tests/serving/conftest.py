import pytest
import torch
from engine_case import start

from tiny import make_lora


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Small matrices take many times longer when threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, rank in enumerate((1, 4, 8, 16, 64)):
        make_lora(folder / f"r{rank}", tiny_model, rank=rank, seed=seed)
    make_lora(folder / "qv", tiny_model, rank=4, seed=9, targets=("q_proj", "v_proj"))
    make_lora(folder / "dora", tiny_model, rank=4, use_dora=True)
    torn = make_lora(folder / "torn", tiny_model, rank=4)
    (torn / "adapter_model.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture
def make_engine(tiny_model, adapters):
    engines = []

    def make(folder=adapters, **settings):
        engines.append(start(tiny_model, folder, **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.shutdown()
