"""LoRA of the embedding and of the output layer where both are one, as in PEFT."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about tied weights
GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, logprobs=0)
TARGETS = {
    "embedding": ["embed_tokens"],
    "output": ["lm_head"],
    "both": ["embed_tokens", "lm_head", "q_proj"],
}


def test_each_table_changes_alone(tmp_path):
    model = make_tiny_model(tmp_path / "model", tie_word_embeddings=True)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for seed, (name, targets) in enumerate(TARGETS.items()):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=9, target_modules=targets, task_type="CAUSAL_LM")
        tuned = get_peft_model(copy.deepcopy(base), config)
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.data.normal_(0, 0.15)
        tuned.save_pretrained(tmp_path / "adapters" / name)
    prompts = [torch.randint(3, 259, (count,)).tolist() for count in (5, 40)]
    asked = [(prompt, name) for prompt in prompts for name in TARGETS]
    with LLM(model, adapters=tmp_path / "adapters", memory_gib=0.05, threads=1) as llm:
        completions = llm.generate(
            [prompt for prompt, _ in asked], adapter=[name for _, name in asked], sampling=GREEDY
        )
        sizes = {status.name: status.num_bytes for status in llm.engine.adapters()}
    # PEFT saves the base's table beside the factors; a row of it is kept.
    assert sizes["embedding"] == sizes["output"] == 4 * (4 * (259 + 48) + 48)
    for (prompt, name), completion in zip(asked, completions, strict=True):
        tuned = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapters" / name)
        chosen = torch.tensor(completion.token_ids)[:, None]
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            logits = tuned(input_ids=ids).logits[0][len(prompt) - 1 : -1]
        assert (logits.max(-1).values - logits.gather(1, chosen)[:, 0]).max() < 1e-3
        want = logits.log_softmax(-1).gather(1, chosen)[:, 0]
        got = torch.tensor([each.logprob for each in completion.logprobs])
        assert (got - want).abs().max() < 1e-4, name
