"""Each family of models: our answers are transformers', an adapter's those of the merged model."""

import pytest
import torch
from families_case import FAMILIES, MORE, make_family, make_lora_of_all
from transformers import AutoModelForCausalLM

from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, logprobs=0)
# One shorter than a window, one longer, and one that takes several steps: prompts and chunks.
PROMPTS = [[5, 9, 30], list(range(20, 34)), [(7 * i) % 250 + 3 for i in range(45)]]


@pytest.mark.parametrize(
    "family", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_a_family_says_what_transformers_says(tmp_path, family):
    folder = make_family(tmp_path / "model", family)
    models = {None: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()}
    models["lora"] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    make_lora_of_all(tmp_path / "adapters" / "lora", models["lora"])
    options = {"memory_gib": 0.01, "threads": 1, "max_batch_tokens": 24}
    with LLM(folder, adapters=tmp_path / "adapters", **options) as llm:
        names = [name for name in models for _ in PROMPTS]
        completions = llm.generate([*PROMPTS, *PROMPTS], adapter=names, sampling=GREEDY)
    for completion, name in zip(completions, names, strict=True):
        check(models[name], completion)
    said = [torch.tensor([each.logprob for each in c.logprobs]) for c in completions]
    for plain, adapted in zip(said, said[len(PROMPTS) :], strict=False):
        assert (plain - adapted).abs().max() > 1e-3


@torch.inference_mode()
def check(model, completion):
    """The logits of the model for the whole text choose each token, within rounding."""
    answer = completion.token_ids
    ids = torch.tensor([[*completion.prompt_token_ids, *answer]])
    logits = model(input_ids=ids, use_cache=False).logits[0, -len(answer) - 1 : -1]
    chosen = torch.tensor(answer)[:, None]
    assert (logits.max(-1).values - logits.gather(1, chosen)[:, 0]).max() < 1e-4
    want = logits.log_softmax(-1).gather(1, chosen)[:, 0]
    got = torch.tensor([each.logprob for each in completion.logprobs])
    assert (got - want).abs().max() < 1e-4
