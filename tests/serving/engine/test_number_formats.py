"""Serving in other number formats than float32: on a CPU by plain torch."""

import pytest
import torch

from gossamer.errors import SettingError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_lora

FEW = SamplingParams(max_tokens=4, temperature=0)


def answers(model, adapters, **settings):
    with LLM(str(model), adapters=adapters, memory_gib=0.01, threads=1, **settings) as llm:
        done = llm.generate(["one", "two"], adapter=[None, "a"], sampling=FEW)
        (status,) = llm.engine.adapters()
        return [each.token_ids for each in done], status.num_bytes, llm.engine.stats()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    make_lora(folder / "a", tiny_model, rank=4)
    return folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_blocks_and_rows_have_the_size_of_the_format(tiny_model, adapters, dtype):
    tokens, full_bytes, full = answers(tiny_model, adapters, backend="reference")
    halved, num_bytes, stats = answers(tiny_model, adapters, dtype=dtype)
    assert stats.block_bytes * 2 == full.block_bytes
    # Rows of 100 numbers end at a multiple of 16 bytes, so that those of 2 bytes are padded.
    half = full_bytes / 2
    assert half <= num_bytes <= 1.1 * half if dtype == "bfloat16" else num_bytes == full_bytes
    # Random weights are near a tie everywhere: only the first token is sure to be the same.
    assert [len(each) for each in halved] == [4, 4]
    assert [each[0] for each in halved] == [each[0] for each in tokens]


def test_rows_as_saved_and_rows_of_the_base(tiny_model, adapters):
    _, full_bytes, _ = answers(tiny_model, adapters)
    same, num_bytes, _ = answers(tiny_model, adapters, adapter_rows="base")
    assert num_bytes == full_bytes
    assert same == answers(tiny_model, adapters)[0]
    _, num_bytes, _ = answers(tiny_model, adapters, dtype="bfloat16", adapter_rows="as-saved")
    assert num_bytes == full_bytes
    _, num_bytes, _ = answers(tiny_model, adapters, dtype="float16", adapter_rows="base")
    assert full_bytes / 2 <= num_bytes <= 1.1 * full_bytes / 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "bfloat16", "backend": "cpu"}, "use dtype=float32, or backend=reference"),
        ({"device": "cuda:x"}, "use auto, cpu, cuda or cuda:N"),
        ({"dtype": "half"}, "'dtype'"),
    ],
)
def test_what_cannot_be_is_refused(tiny_model, adapters, settings, words):
    with pytest.raises(SettingError) as caught:
        LLM(str(tiny_model), adapters=adapters, **settings)
    assert words in str(caught.value)


def test_torch_without_cuda_is_told_in_one_sentence(tiny_model, adapters):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingError, match=r"device 'cuda' cannot be used: .*; use device=cpu$"):
        LLM(str(tiny_model), adapters=adapters, device="cuda")
