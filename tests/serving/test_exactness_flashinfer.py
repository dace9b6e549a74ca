"""The whole engine with FlashInfer's attention, which a stand-in computes, says what torch says."""

from dataclasses import replace

import pytest
import torch
from kinds_case import GREEDY, Kinds
from launches import fake_flashinfer
from launches.interpreted import call_at_once

from gossamer.errors import MissingExtraError
from gossamer.kernels import attention_choice
from gossamer.kernels.paged_attention.triton_launches import TritonPagedAttention
from gossamer.llm import LLM

call_at_once()
# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return Kinds(tmp_path_factory.mktemp("qwen2"), "qwen2")


def said(family, requests, **settings):
    prompts, names = zip(*requests, strict=True)
    options = {"memory_gib": 0.05, "threads": 1, **settings}
    with LLM(family.model, adapters=family.adapters, **options) as llm:
        done = llm.generate(
            list(prompts), adapter=list(names), sampling=replace(GREEDY, max_tokens=3)
        )
        llm.engine.audit()
    return done


@pytest.mark.parametrize(
    "names",
    [[None, "lora-qv", "prefix"], [None, "prefix-21"]],
    ids=["pages alone", "some without"],
)
def test_mixed_requests_in_chunks(family, names, monkeypatch):
    """Prefixes of 16 fill a block of 16; those of 21 begin within one, and take our kernels."""
    # The tiny model's are none that the real package computes.
    monkeypatch.setattr(attention_choice, "FLASHINFER_DTYPES", (torch.float32,))
    monkeypatch.setattr(attention_choice, "FLASHINFER_HEADS", (16,))
    ours = []
    call = TritonPagedAttention.__call__

    def counted(self, *args):
        ours.append(1)
        return call(self, *args)

    monkeypatch.setattr(TritonPagedAttention, "__call__", counted)
    wrappers = fake_flashinfer.install(monkeypatch)
    requests = [("Say it please, and more"[: 9 + 7 * n], name) for n, name in enumerate(names)]
    want = said(family, requests, backend="reference")
    # The third prompt comes in while the others decode already.
    got = said(
        family, requests, backend="triton", attention="flashinfer", max_batch_tokens=24,
        block_tokens=16,
    )  # fmt: skip
    for one, other in zip(want, got, strict=True):
        assert other.token_ids == one.token_ids, one.adapter
        for token, reference in zip(other.logprobs, one.logprobs, strict=True):
            assert abs(token.logprob - reference.logprob) < 1e-4, one.adapter
    prefill, *decodes = wrappers
    # How soon an adapter is read decides whether a prompt of the base has a step without it.
    assert prefill.runs or "prefix-21" in names
    assert sum(each.plans for each in decodes) > 1
    assert any(each.runs for each in decodes)
    assert bool(ours) == ("prefix-21" in names)


def test_a_server_without_the_package_does_not_start(family, monkeypatch):
    monkeypatch.setattr(attention_choice, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install"):
        said(family, [("a", None)], backend="triton", attention="flashinfer")
