"""Trained biases, tied embeddings and mixtures of vectors on a model with biases, against PEFT."""

import copy
import warnings

import pytest
import torch
from peft import BeftConfig, LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from gossamer.errors import UnsupportedAdapterError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_tiny_model

CAUSAL = {"task_type": "CAUSAL_LM"}
TOKENS = [7, 3, 100]
CONFIGS = {
    "beft": BeftConfig(target_modules=["q_proj", "v_proj"], **CAUSAL),
    "norms": LNTuningConfig(target_modules=["input_layernorm", "norm"], **CAUSAL),
    "dora": LoraConfig(
        r=2, target_modules=["q_proj", "k_proj"], use_dora=True, bias="all",
        modules_to_save=["norm"], **CAUSAL,
    ),
    "embedding": LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], **CAUSAL
    ),
    "tied": LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"],
        ensure_weight_tying=True, **CAUSAL,
    ),
    "tokens": LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=TOKENS, **CAUSAL
    ),
}  # fmt: skip
MIXTURE = "beft:0.5+norms:-2"
NAMES = [*CONFIGS, MIXTURE, None]
GREEDY = SamplingParams(max_tokens=10, temperature=0, ignore_eos=True, logprobs=0)
PROMPTS = [[7, 3], [9, 8, 3, 200, 7, 100], list(range(3, 33))]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "qwen"
    return make_tiny_model(folder, model_type="qwen2", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def base(model_folder):
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, base):
    root = tmp_path_factory.mktemp("adapters")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        with warnings.catch_warnings():
            # That the embedding and the output layer are one, which is what is tried.
            warnings.simplefilter("ignore")
            model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
            for key, weight in model.named_parameters():
                if weight.requires_grad:
                    size = 0.05 if "lora_A" in key else 0.3
                    weight.data += size * torch.randn_like(weight)
            model.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def answers(model_folder, adapters):
    requests = [(prompt, name) for name in NAMES for prompt in PROMPTS]
    prompts, names = zip(*requests, strict=True)
    with LLM(model_folder, adapters=adapters, memory_gib=0.05, threads=1) as llm:
        found = llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
        with pytest.raises(UnsupportedAdapterError, match="dora is of kind mixed"):
            llm.generate([[5]], adapter="dora:0.5+beft", sampling=GREEDY)
    return found


def reference(base, adapters, name):
    model = copy.deepcopy(base)
    if name == MIXTURE:
        for part, weight in (("beft", 0.5), ("norms", -2.0)):
            other = PeftModel.from_pretrained(copy.deepcopy(base), adapters / part)
            trained = other.merge_and_unload().state_dict()
            for key, value in model.state_dict().items():
                value += weight * (trained[key] - base.state_dict()[key])
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model if name is None else PeftModel.from_pretrained(model, adapters / name)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_one_batch_says_what_peft_says_of_each(base, adapters, answers, name):
    model = reference(base, adapters, name).eval()
    for number, completion in enumerate(answers):
        if NAMES[number // len(PROMPTS)] != name:
            continue
        ids = torch.tensor([[*completion.prompt_token_ids, *completion.token_ids]])
        logits = model(input_ids=ids).logits[0, -GREEDY.max_tokens - 1 : -1]
        chosen = torch.tensor(completion.token_ids)[:, None]
        assert (logits.max(-1).values - logits.gather(1, chosen)[:, 0]).max() < 1e-3
        want = logits.log_softmax(-1).gather(1, chosen)[:, 0]
        got = torch.tensor([each.logprob for each in completion.logprobs])
        assert (got - want).abs().max() < 1e-4


def test_every_adapter_made_a_difference(answers):
    said = [each.token_ids for each in answers]
    plain = said[-len(PROMPTS) :]
    for number, name in enumerate(NAMES[:-1]):
        assert said[number * len(PROMPTS) :][: len(PROMPTS)] != plain, name
