"""The whole engine on a GPU's device, its streams pretended: the same answers as on the CPU."""

import pytest
import torch
from fake_cuda import FakeCuda

from gossamer.errors import ServingError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.serving.device.cuda import CudaDevice

from tiny import make_lora

FEW = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
NAMES = ["a", None, "b", "c", "a", "b"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate("abc"):
        make_lora(folder / name, tiny_model, rank=4 + seed, seed=seed)
    return folder


def answers(model, adapters):
    # Room for two adapters or so beside the texts: they come and go.
    options = {"memory_gib": 0.00015, "threads": 1, "backend": "reference", "prefix_cache": False}
    with LLM(str(model), adapters=adapters, **options) as llm:
        done = [
            each.token_ids
            for _ in range(3)
            for each in llm.generate(["one two"] * len(NAMES), adapter=NAMES, sampling=FEW)
        ]
        return done, llm.engine.stats()


def test_answers_are_those_of_the_cpu(tiny_model, adapters, monkeypatch):
    expected, _ = answers(tiny_model, adapters)
    cuda = FakeCuda()
    device = CudaDevice(cuda, "reference", torch.float32)
    monkeypatch.setattr("gossamer.serving.engine.assemble.make_device", lambda *_, **__: device)
    found, stats = answers(tiny_model, adapters)
    assert found == expected
    assert stats.adapter_loads > 3
    assert stats.adapter_evictions > 0


def test_a_step_that_fails_when_it_is_launched_is_counted(tiny_model, adapters, monkeypatch):
    """A part of it may run, and use blocks that are given back then."""
    with LLM(str(tiny_model), adapters=adapters, memory_gib=0.001, threads=1) as llm:
        runner = llm.engine.runner
        monkeypatch.setattr(runner.model, "run", lambda batch: 1 / 0)
        before = runner.device.launched()
        with pytest.raises(ServingError, match="failed to compute"):
            llm.generate("one", sampling=FEW)
        assert runner.device.launched() == before + 1
