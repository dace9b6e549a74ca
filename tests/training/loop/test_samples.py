"""Held-out prompts are answered as a run goes on, and the run is the same as without."""

import pytest
import torch
from peft import PeftModel
from runs import TINY, quiet_tune, step_losses, write_rows
from transformers import AutoModelForCausalLM

from gossamer.basemodel.load import load_tokenizer
from gossamer.training.evaluation.predict import end_tokens, generate_replies
from gossamer.training.loop import sampler
from gossamer.training.loop.callback import RunInterrupted
from gossamer.training.loop.sampler import PromptSampler
from gossamer.training.outputs.listener import Listener
from gossamer.training.outputs.samples import read_samples

RUN = {"max_steps": 8, "save_every": 4, "eval_every": 4, "eval_split": 6, **TINY}


class Told(Listener):
    """Keeps notes, and stops the run after a step if it is to."""

    def __init__(self, stop_after=None):
        self.notes = []
        self._stop_after = stop_after

    def note(self, text):
        self.notes.append(text)

    def step(self, record):
        if record["step"] == self._stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def sampled(tiny_model, rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "sampled"
    quiet_tune(tiny_model, rows, output, samples=2, **RUN)
    return output


def test_losses_are_those_of_a_run_without_samples(sampled, tiny_model, rows, tmp_path):
    quiet_tune(tiny_model, rows, tmp_path / "plain", **RUN)
    assert step_losses(sampled) == step_losses(tmp_path / "plain")
    name = "adapter_model.safetensors"
    assert (sampled / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert read_samples(tmp_path / "plain") is None


def test_the_same_prompts_are_answered_at_each_evaluation(sampled, tiny_model):
    found = read_samples(sampled)
    assert [each["step"] for each in found["answers"]] == [0, 4, 8]
    first = found["prompts"][0]
    assert "What is" in first["prompt"]
    assert first["expected"].startswith("It is")
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = load_tokenizer(tiny_model)
    for step, texts in ((0, found["answers"][0]["texts"]), (8, found["answers"][-1]["texts"])):
        model = base if step == 0 else PeftModel.from_pretrained(base, str(sampled))
        ids = tokenizer(first["prompt"], add_special_tokens=False)["input_ids"]
        ends = end_tokens(model, tokenizer)
        (reply,) = generate_replies(
            model.eval(), [ids], ends=ends, max_new_tokens=sampler.MAX_ANSWER
        )
        assert texts[0] == tokenizer.decode(reply, skip_special_tokens=True)


def test_a_resumed_run_has_the_samples_of_an_undisturbed_one(sampled, tiny_model, rows, tmp_path):
    output = tmp_path / "run"
    with pytest.raises((KeyboardInterrupt, RunInterrupted)):
        quiet_tune(tiny_model, rows, output, samples=2, listener=Told(stop_after=7), **RUN)
    quiet_tune(output=output, resume=True, samples=3)
    texts = [each["texts"] for each in read_samples(output)["answers"]]
    whole = [each["texts"] for each in read_samples(sampled)["answers"]]
    assert texts[:2] == whole[:2]
    assert [answers[:2] for answers in texts] == whole
    assert step_losses(output) == step_losses(sampled)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "prefix_tuning"},
        {"method": "loreft"},
        {"method": "full", "learning_rate": 1e-4},
        {"method": "lora", "density_loss": 0.1},
        {"method": "lora", "gradient_checkpointing": True, "neftune_noise_alpha": 5.0},
        {"method": "lora", "dtype": "bfloat16"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_models_of_all_sorts_answer_while_they_learn(tiny_model, rows, tmp_path, settings):
    told = Told()
    run = {name: value for name, value in RUN.items() if name != "rank"} | {"max_steps": 1}
    quiet_tune(tiny_model, rows, tmp_path / "run", samples=1, listener=told, **{**run, **settings})
    assert [len(each["texts"]) for each in read_samples(tmp_path / "run")["answers"]] == [1, 1]
    assert not [note for note in told.notes if "samples" in note]


def test_a_run_goes_on_where_no_answer_can_be_had(tiny_model, rows, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sampler, "generate_replies", refuse)
    told = Told()
    quiet_tune(tiny_model, rows, tmp_path / "run", samples=1, listener=told, **RUN)
    notes = [note for note in told.notes if "samples" in note]
    assert notes == ["warning: no samples are taken any more: RuntimeError: out of memory"]
    assert len(step_losses(tmp_path / "run")) == 8


class Row:
    """A row whose first tokens are context."""

    def __init__(self, context, learnt):
        self.input_ids = list(range(context + learnt))
        self.labels = [-100] * context + self.input_ids[context:]
        self.sides = (self,)


def test_long_prompts_are_passed_over_and_plain_text_is_gone_on_with(tmp_path):
    rows = [Row(sampler.MAX_PROMPT + 1, 3), Row(9, 0), Row(4, 3), Row(1, 9), Row(5, 2)]
    taken = PromptSampler(rows, None, tmp_path, Told(), count=2, forward=None)
    assert [(len(prompt), len(answer)) for prompt, answer in taken.rows] == [(4, 3), (5, 5)]
