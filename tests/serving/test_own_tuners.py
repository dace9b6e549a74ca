"""What our own tuners save with `save_pretrained` is served: the tokens that `generate` gives."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from gossamer.llm import LLM
from gossamer.methods.reft.model import ReftConfig
from gossamer.methods.smt.model import SmtConfig
from gossamer.methods.smt.select import select_blocks
from gossamer.methods.smt.settings import SmtSettings
from gossamer.serving.core.messages import SamplingParams

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
REFT = {
    "loreft": ReftConfig(variant="loreft", rank=4, first_positions=2, last_positions=3),
    "direft": ReftConfig(variant="direft", rank=3, layers=[1], tied=False),
    "nodireft": ReftConfig(variant="nodireft", rank=2, first_positions=0, last_positions=4),
}
NAMES = [*REFT, "smt"]
PROMPTS = [[5], [9, 8, 7, 200], list(range(10, 40))]


def base(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def config(name, tiny_model):
    if name in REFT:
        return REFT[name]
    ids = torch.arange(24).reshape(2, 12) + 5
    settings = SmtSettings(block_size=8, attention_ratio=0.02, mlp_ratio=0.02)
    return select_blocks(base(tiny_model), [{"input_ids": ids, "labels": ids}], settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    root = tmp_path_factory.mktemp("own")
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        made = config(name, tiny_model)
        made = made if name in REFT else SmtConfig(blocks=made)
        model = get_peft_model(base(tiny_model), made)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                # R keeps its orthonormal rows.
                if weight.requires_grad and "rotate" not in key:
                    weight += 0.4 * torch.randn(weight.shape)
        model.save_pretrained(root / name, save_embedding_layers=False)
    return root


def generated(tiny_model, folder, prompt):
    model = PeftModel.from_pretrained(base(tiny_model), folder)
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=GREEDY.max_tokens,
        min_new_tokens=GREEDY.max_tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return tuple(out[0, len(prompt) :].tolist())


def test_served_in_one_batch_as_generated_alone(tiny_model, folder):
    requests = [(prompt, name) for name in NAMES for prompt in PROMPTS]
    prompts, names = zip(*requests, strict=True)
    with LLM(tiny_model, adapters=folder, memory_gib=0.05, threads=1, max_batch_tokens=33) as llm:
        completions = llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
        plain = llm.generate(PROMPTS, sampling=GREEDY)
    for (prompt, name), completion in zip(requests, completions, strict=True):
        assert completion.token_ids == generated(tiny_model, folder / name, prompt), name
    assert {c.token_ids for c in plain}.isdisjoint({c.token_ids for c in completions})
