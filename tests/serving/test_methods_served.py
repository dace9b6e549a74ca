"""Every method whose result is an adapter: two steps of tuning, then served as PEFT generates."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from gossamer import methods
from gossamer.adapters.inspect import inspect
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams
from gossamer.training.outputs.listener import Listener
from gossamer.training.run import tune

# The model has no biases: `bitfit` refuses it, and what it leaves is served in other tests.
NAMES = [
    name
    for name in methods.names()
    if methods.find(name).kind not in methods.NOT_SERVED and name != "bitfit"
]
# Blocks and ranks that suit a model of 48 channels.
SETTINGS = {"smt": {"block_size": 8, "attention_ratio": 0.02}}
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=0)
PROMPTS = [[5], [9, 8, 7, 200, 31], list(range(10, 40))]

# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked; its soft prompts
# warn in every `generate` that positions are shifted.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    root = tmp_path_factory.mktemp("runs")
    rows = root / "rows.jsonl"
    pairs = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(4)]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    with pytest.MonkeyPatch.context() as patch:
        # Drawing takes as long as some steps, and nobody looks at these curves.
        patch.setattr("gossamer.training.run.draw_loss_curve", lambda *given, **named: None)
        for name in NAMES:
            if all(pytest.importorskip(module) for module in methods.find(name).extra_modules):
                tune(
                    tiny_model,
                    rows,
                    root / "served" / name,
                    method=name,
                    max_steps=2,
                    batch_size=4,
                    learning_rate=0.05,
                    warmup=0,
                    dtype="float32",
                    listener=Listener(),
                    **SETTINGS.get(name, {}),
                )
    return root / "served"


@pytest.fixture(scope="module")
def served(tiny_model, folder):
    """(answers by (method, number of the prompt), what the server says of each)."""
    requests = [(prompt, name) for name in NAMES for prompt in PROMPTS]
    prompts, names = zip(*requests, strict=True)
    with LLM(tiny_model, adapters=folder, memory_gib=0.1, threads=1) as llm:
        completions = llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
        states = {status.name: status for status in llm.engine.adapters()}
    keys = [(name, number) for name in NAMES for number in range(len(PROMPTS))]
    return dict(zip(keys, completions, strict=True)), states


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_what_a_method_leaves_is_served_as_peft_computes_it(tiny_model, folder, served, name):
    completions, states = served
    assert states[name].kind == inspect(folder / name).kind
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / name).eval()
    for number, prompt in enumerate(PROMPTS):
        answer = completions[name, number].token_ids
        ids = torch.tensor([prompt])
        want = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=len(answer),
            min_new_tokens=len(answer),
            do_sample=False,
            eos_token_id=None,
        )
        assert answer == tuple(want[0, -len(answer) :].tolist())
