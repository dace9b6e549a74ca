"""The server says what PEFT says, on adapters that PEFT has written."""

import torch
from peft import PeftModel
from reft_models import load, reft, tokens

from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

VARIANTS = {
    "loreft": {"variant": "loreft"},
    "direft": {"variant": "direft", "tied": False, "layers": [0, 2]},
    "free": {"variant": "nodireft", "first_positions": 0, "last_positions": 4},
    "short": {"variant": "loreft", "first_positions": 9, "last_positions": 9},
}


def test_saved_by_peft_and_served(tiny_model, tmp_path):
    for seed, (name, settings) in enumerate(VARIANTS.items()):
        model = reft(tiny_model, seed=seed, **settings)
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
    prompts = [tokens(rows=1, length=length)[0].tolist() for length in (1, 5, 12)]
    greedy = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    answers = {}
    with LLM(tiny_model, adapters=tmp_path, memory_gib=0.05, threads=1) as llm:
        for name in VARIANTS:
            found = llm.generate(prompts, sampling=greedy, adapter=name)
            answers[name] = [list(completion.token_ids) for completion in found]
    for name in VARIANTS:
        model = PeftModel.from_pretrained(load(tiny_model), tmp_path / name).eval()
        for prompt, answer in zip(prompts, answers[name], strict=True):
            ids = torch.tensor([prompt])
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=6,
                min_new_tokens=6,
                do_sample=False,
            )
            assert out[0, len(prompt) :].tolist() == answer, name
    assert len({str(answer) for answer in answers.values()}) == len(VARIANTS)
