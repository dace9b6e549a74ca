"""Adapter rows rounded to int8 on request: a quarter of the bytes, nearly the same answers."""

import pytest

from gossamer.errors import SettingError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_lora

FIRST = SamplingParams(max_tokens=1, temperature=0, logprobs=5)


def first_token(llm, adapter):
    (completion,) = llm.generate("Hello", adapter=adapter, sampling=FIRST)
    return completion.logprobs[0]


def test_int8_rows_cost_a_quarter_and_move_logits_little(tmp_path, tiny_model):
    make_lora(tmp_path / "a", tiny_model, rank=8, seed=1, size=0.3)
    with LLM(str(tiny_model), adapters=tmp_path, memory_gib=0.01) as llm:
        base, exact = first_token(llm, None), first_token(llm, "a")
        (full,) = [info.num_bytes for info in llm.engine.adapters()]
    with LLM(str(tiny_model), adapters=tmp_path, memory_gib=0.01, adapter_rows="int8") as llm:
        assert first_token(llm, None) == base
        rounded = first_token(llm, "a")
        (quarter,) = [info.num_bytes for info in llm.engine.adapters()]
    # Rows of 100 elements are padded to 112 bytes.
    assert full < quarter * 4 < 1.05 * full
    assert rounded.token_id == exact.token_id
    assert 0 < abs(rounded.logprob - exact.logprob) < 0.02
    assert abs(base.logprob - exact.logprob) > 0.02


def test_an_unknown_way_to_rest_is_refused(tiny_model):
    with pytest.raises(SettingError, match="adapter_rows"):
        LLM(str(tiny_model), adapter_rows="int4")
