"""Side networks and pairs of streams in steps: other families, no trace behind, what is refused."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from gossamer.errors import UnsupportedAdapterError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.tuners import MeftConfig, SherlConfig

from tiny import make_tiny_model

GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, logprobs=0)
PROMPTS = [[7], [9, 8, 3, 200, 7, 100], list(range(3, 33))]
CAUSAL = {"task_type": "CAUSAL_LM"}
FAMILIES = {
    "gpt2": {"num_key_value_heads": 4, "head_dim": 12},
    "gemma2": {
        "sliding_window": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0,
    },
    "qwen3": {},
}  # fmt: skip


def tuned(folder, model_folder, config):
    """A folder with an adapter whose networks do something plainly."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


def alone(model_folder, adapter, answer):
    """The log-probabilities [n, vocabulary] in plain PEFT in the place of each token answered."""
    base = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, attn_implementation="eager"
    )
    model = base if adapter is None else PeftModel.from_pretrained(base, adapter)
    ids = torch.tensor([[*answer.prompt_token_ids, *answer.token_ids]])
    with torch.inference_mode():
        logits = model.eval()(input_ids=ids).logits[0]
    return logits[len(answer.prompt_token_ids) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_side_networks_serve_in_families_of_other_blocks(tmp_path, family):
    """GPT-2's blocks lie at another path; Gemma scales what goes into the first."""
    model = make_tiny_model(tmp_path / "model", model_type=family, **FAMILIES[family])
    tuned(tmp_path / "adapters" / "side", model, SherlConfig(late_layers=1, **CAUSAL))
    names = [None, "side", "side"]
    with LLM(model, adapters=tmp_path / "adapters", memory_gib=0.02, threads=1) as llm:
        answers = llm.generate(PROMPTS, adapter=names, sampling=GREEDY)
    for name, answer in zip(names, answers, strict=True):
        adapter = None if name is None else tmp_path / "adapters" / name
        want = alone(model, adapter, answer)
        own = want.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        assert (want.max(-1).values - own).max() < 1e-3
        assert [each.logprob for each in answer.logprobs] == pytest.approx(own.tolist(), abs=1e-3)


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_model):
    root = tmp_path_factory.mktemp("adapters")
    tuned(root / "side", tiny_model, SherlConfig(late_layers=1, **CAUSAL))
    tuned(root / "pair", tiny_model, MeftConfig(reversible_layers=2, **CAUSAL))
    return root


def test_nothing_is_left_at_the_blocks_after_a_step(tiny_model, served):
    options = {"memory_gib": 0.02, "threads": 1, "prefix_cache": False}
    with LLM(tiny_model, adapters=served, **options) as llm:
        model = llm.engine.runner.model
        seen = []
        run = model._blocks.acting

        def acting(parts):
            seen.append(parts is not None and parts.act_between_blocks)
            return run(parts)

        model._blocks.acting = acting
        hooks = hooks_of(model.whole_model)
        base = llm.generate(PROMPTS, adapter=None, sampling=GREEDY)
        assert not any(seen)
        llm.generate(PROMPTS, adapter=["side", "pair", None], sampling=GREEDY)
        assert any(seen)
        assert hooks_of(model.whole_model) == hooks
        again = llm.generate(PROMPTS, adapter=None, sampling=GREEDY)
    assert [(c.token_ids, c.logprobs) for c in again] == [(c.token_ids, c.logprobs) for c in base]


def hooks_of(model):
    return [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    ]


@pytest.mark.parametrize("name", ["side", "pair"])
def test_there_is_no_weighted_sum_of_networks(tiny_model, served, name):
    with (
        LLM(tiny_model, adapters=served, memory_gib=0.02, threads=1) as llm,
        pytest.raises(UnsupportedAdapterError, match=f"{name} is of kind .* no weighted sum"),
    ):
        llm.generate([[5]], adapter=f"{name}:0.5", sampling=GREEDY)


def test_rows_longer_than_a_block_are_refused_with_what_to_set(tmp_path, tiny_model):
    """A token takes 3 x 2 x 2 x 16 numbers, less than such a network has channels."""
    adapter = tmp_path / "adapters" / "pair"
    tuned(adapter, tiny_model, MeftConfig(width=300, **CAUSAL))
    options = {"memory_gib": 0.02, "threads": 1, "adapters": tmp_path / "adapters"}
    short = replace(GREEDY, max_tokens=1)
    with (
        LLM(tiny_model, block_tokens=1, **options) as llm,
        pytest.raises(UnsupportedAdapterError, match=r"takes 1200 bytes.*--block-tokens 2 or more"),
    ):
        llm.generate([[5]], adapter="pair", sampling=short)
    with LLM(tiny_model, block_tokens=2, **options) as llm:
        (answer,) = llm.generate([[5]], adapter="pair", sampling=short)
    want = alone(tiny_model, adapter, answer)
    assert answer.logprobs[0].logprob == pytest.approx(want.max().item(), abs=1e-4)


def test_two_streams_are_refused_where_blocks_norm_elsewhere(tmp_path):
    """Gemma's blocks have the same parts, and norms behind them too."""
    like = make_tiny_model(tmp_path / "like")
    model = make_tiny_model(tmp_path / "model", model_type="gemma2", **FAMILIES["gemma2"])
    tuned(tmp_path / "adapters" / "pair", like, MeftConfig(**CAUSAL))
    with (
        LLM(model, adapters=tmp_path / "adapters", memory_gib=0.02, threads=1) as llm,
        pytest.raises(UnsupportedAdapterError, match=r"pair computes .* two streams.*llama"),
    ):
        llm.generate([[5]], adapter="pair", sampling=GREEDY)
