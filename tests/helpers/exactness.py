"""Ten unlike adapters on a tiny model, and the verdict of PEFT's merged model on an answer."""

from functools import cached_property

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_lora, make_tiny_model

QV = ("q_proj", "v_proj")
ADAPTERS = {
    "r1": {"rank": 1},
    "r4-qv": {"rank": 4, "targets": QV},
    "r8-bfloat16": {"rank": 8, "dtype": torch.bfloat16},
    "r12-qv": {"rank": 12, "targets": QV, "alpha": 5},
    "r16-rslora": {"rank": 16, "alpha": 8, "use_rslora": True},
    "r64": {"rank": 64, "alpha": 32},
    "patterns": {
        "rank": 8,
        "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 17},
        "alpha_pattern": {"v_proj": 20, "layers.0.mlp.up_proj": 2},
    },
    "r16-o-down": {"rank": 16, "targets": ("o_proj", "down_proj")},
    "r5-float16": {"rank": 5, "dtype": torch.float16},
    "r3-k": {"rank": 3, "targets": ("k_proj",)},
}
SHAPES = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
}
"""What is peculiar to a tiny model of each served family."""
GREEDY = SamplingParams(max_tokens=64, temperature=0, ignore_eos=True, logprobs=0)
# Differences this small in a logit are rounding; the order of sums decides then.
TOLERANCE = 1e-3


def served(family, **settings):
    """Start an engine on a family's model, with all its adapters."""
    options = {"memory_gib": 0.05, "threads": 1, **settings}
    return LLM(family.model, adapters=family.adapters, **options)


class Family:
    """A tiny model of one family with all adapters in one folder."""

    def __init__(self, folder, model_type, **shape):
        shape = {"tie_word_embeddings": False, **shape}
        self.model = make_tiny_model(folder / "model", model_type=model_type, **shape)
        self.adapters = folder / "adapters"
        for seed, (name, options) in enumerate(ADAPTERS.items()):
            make_lora(self.adapters / name, self.model, seed=seed, **{"size": 0.6, **options})
        self._merged = {}

    @cached_property
    def requests(self):
        """(prompt, adapter) of each: all adapters and the base, prompts of unlike lengths."""
        generator = torch.Generator().manual_seed(5)
        lengths = (1, 3, 16, 150, 31, 160, 5, 64, 2, 23, 9, 50, 1, 33)
        names = [None, *ADAPTERS, None, "r64", None]
        return [
            (torch.randint(3, 259, (length,), generator=generator).tolist(), name)
            for length, name in zip(lengths, names, strict=True)
        ]

    def merged(self, name):
        """The base model with an adapter merged by PEFT."""
        if name not in self._merged:
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
            if name is not None:
                model = PeftModel.from_pretrained(model, self.adapters / name).merge_and_unload()
            self._merged[name] = model.eval()
        return self._merged[name]

    @torch.inference_mode()
    def check(self, completion):
        """Assert that `completion` is what the merged model, run alone, would say greedily.

        One pass over prompt and answer: each token must be the likeliest after those before it.
        """
        prompt, answer = completion.prompt_token_ids, completion.token_ids
        assert len(answer) == GREEDY.max_tokens
        model = self.merged(completion.adapter)
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        chosen = torch.tensor(answer)
        gap = logits.max(-1).values - logits.gather(1, chosen[:, None])[:, 0]
        assert gap.max() < TOLERANCE, f"{completion.adapter}: token {int(gap.argmax())} differs"
        want = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        got = torch.tensor([each.logprob for each in completion.logprobs])
        assert (got - want).abs().max() < TOLERANCE

    def check_all(self, completions):
        """Check every one, and that the adapters and the prompts made a difference."""
        assert len(completions) == len(self.requests)
        for completion in completions:
            self.check(completion)
        assert len({c.token_ids for c in completions}) == len(completions)
        distinct = sorted(len(set(c.token_ids)) for c in completions)
        assert distinct[3] > 3, "answers that only repeat themselves prove little"


def answers(llm, requests):
    """Greedy answers to (prompt, adapter) pairs, all submitted at once."""
    prompts, names = zip(*requests, strict=True)
    return llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
