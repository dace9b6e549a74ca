import pytest

from gossamer.llm import LLM

from tiny import make_lora


@pytest.fixture(scope="session")
def adapters_to_score(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    make_lora(folder / "a", tiny_model, rank=4, seed=1, size=0.5)
    make_lora(folder / "b", tiny_model, rank=20, seed=2, size=0.5)
    return folder


@pytest.fixture
def llm(tiny_model, adapters_to_score):
    options = {"memory_gib": 0.05, "threads": 1, "device": "cpu"}
    with LLM(str(tiny_model), adapters=adapters_to_score, **options) as llm:
        yield llm
