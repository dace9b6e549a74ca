"""Scores of models that are prepared by different methods, batched, and after a stop."""

import json

import pytest
import torch
from peft import (
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)

from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.training.data import DataSettings
from gossamer.training.evaluation import EvaluationSettings, evaluate, load_eval_set
from gossamer.training.evaluation.predict import generate_replies, log_probabilities
from gossamer.training.quiet import quiet_libraries

PEFT = {
    "lora": LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False
    ),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "p_tuning": PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=6
    ),
}


@pytest.fixture(params=["base", *PEFT])
def model(request, tiny_model):
    base = load_model(tiny_model, dtype=torch.float32)
    torch.manual_seed(0)
    return base if request.param == "base" else get_peft_model(base, PEFT[request.param]).eval()


@pytest.fixture
def held_out(tiny_model, tmp_path):
    path = tmp_path / "eval.jsonl"
    made = [
        {"prompt": "why " * (1 + i % 4) + str(i), "completion": f"so {i}", "answer": str(i)}
        for i in range(7)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    data = DataSettings(data="unused")
    return load_eval_set(str(path), EvaluationSettings(), data, load_tokenizer(tiny_model))


def by_hand(model, prompt, count):
    """Greedy tokens without a cache, padding or a batch."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def test_a_batch_says_what_each_prompt_alone_gets(model, held_out):
    prompts = [row.prompt for row in held_out.rows]
    assert len({len(prompt) for prompt in prompts}) > 1
    with quiet_libraries():
        batch = generate_replies(model, prompts, ends=[], max_new_tokens=8)
    assert batch == [by_hand(model, prompt, 8) for prompt in prompts]
    assert len({tuple(reply) for reply in batch}) > 1


@pytest.mark.parametrize("name", ["prompt", "p_tuning"])
def test_peft_alone_answers_a_padded_batch_of_soft_prompts_wrongly(name, tiny_model):
    """Why such prompts share a batch only if they are equally long; to go when PEFT is right."""
    torch.manual_seed(0)
    model = get_peft_model(load_model(tiny_model, dtype=torch.float32), PEFT[name]).eval()
    short, long = list(range(10, 14)), list(range(20, 40))
    ids = torch.tensor([[2] * (len(long) - len(short)) + short, long])
    mask = torch.ones_like(ids)
    mask[0, : -len(short)] = 0
    with quiet_libraries():
        padded = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=8, pad_token_id=2
        )
        ours = generate_replies(model, [short, long], ends=[], max_new_tokens=8)
    assert ours == [by_hand(model, prompt, 8) for prompt in (short, long)]
    assert padded[0, len(long) :].tolist() != ours[0]


def test_a_reply_stops_before_its_end_token(model, held_out):
    prompts = [row.prompt for row in held_out.rows]
    with quiet_libraries():
        whole = generate_replies(model, prompts, ends=[], max_new_tokens=8)
        end = whole[0][3]
        cut = generate_replies(model, prompts, ends=[end], max_new_tokens=8)
    for before, after in zip(whole, cut, strict=True):
        assert after == (before[: before.index(end)] if end in before else before)


def test_a_models_own_generation_settings_do_not_count(tiny_model, held_out):
    model = load_model(tiny_model, dtype=torch.float32)
    prompts = [held_out.rows[0].prompt]
    plain = generate_replies(model, prompts, ends=[], max_new_tokens=8)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 3
    assert generate_replies(model, prompts, ends=[], max_new_tokens=8) == plain
    assert model.generation_config.repetition_penalty == 5.0


def test_log_probabilities_are_those_of_single_rows(model, held_out, monkeypatch):
    examples = [row.example for row in held_out.rows]
    single = [next(log_probabilities(model, [example]))[0] for example in examples]
    for example, found in zip(examples, single, strict=True):
        ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss
        assert found == pytest.approx(-float(loss) * example.trained_tokens, rel=1e-5)
    monkeypatch.setattr(
        "gossamer.training.evaluation.predict._MOST_POSITIONS", 3 * len(examples[3].input_ids)
    )
    batches = list(log_probabilities(model, examples))
    assert 1 < len(batches) < len(examples)
    assert [value for batch in batches for value in batch] == pytest.approx(single, rel=1e-4)


def score(model, tiny_model, held_out, **more):
    settings = EvaluationSettings(eval_batch_size=3, max_new_tokens=6)
    with quiet_libraries():
        return evaluate(model, load_tokenizer(tiny_model), held_out, settings, **more)


def test_what_is_done_is_not_done_again(tiny_model, held_out, tmp_path, monkeypatch):
    model = load_model(tiny_model, dtype=torch.float32).train()
    kept = tmp_path / "progress.jsonl"
    whole = score(model, tiny_model, held_out)
    assert model.training

    calls = []

    def stop_at_the_second(*arguments, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return generate_replies(*arguments, **options)

    place = "gossamer.training.evaluation.measure.generate_replies"
    monkeypatch.setattr(place, stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        score(model, tiny_model, held_out, kept_in=kept)
    # A kill in the middle of a line.
    kept.write_text(kept.read_text() + '{"what": "replies", "val')

    asked = []

    def count(model, prompts, **options):
        asked.extend(prompts)
        return generate_replies(model, prompts, **options)

    monkeypatch.setattr(place, count)
    seen = []
    again = score(model, tiny_model, held_out, kept_in=kept, progress=lambda *now: seen.append(now))
    assert len(asked) == len(held_out.rows) - 3
    assert (again.value, again.loss, again.right) == (whole.value, whole.loss, whole.right)
    assert seen[-1] == (14, 14)
    asked.clear()
    score(model, tiny_model, held_out, kept_in=kept)
    assert asked == []


def test_right_replies_are_counted(tiny_model, held_out, monkeypatch):
    tokenizer = load_tokenizer(tiny_model)
    model = load_model(tiny_model, dtype=torch.float32)

    def parrot(model, prompts, **options):
        # Says the number that the question ends with, but for the question 3.
        texts = [tokenizer.decode(prompt).split("<|im_end|>")[0] for prompt in prompts]
        said = [f"so it is {text.split()[-1]}." for text in texts]
        return [tokenizer(text.replace("3", "33"))["input_ids"] for text in said]

    monkeypatch.setattr("gossamer.training.evaluation.measure.generate_replies", parrot)
    settings = EvaluationSettings(eval_batch_size=2)
    result = evaluate(model, tokenizer, held_out, settings)
    assert (result.score, result.right, result.rows) == ("last-number", 6, 7)
    assert result.value == pytest.approx(6 / 7)
    assert result.unfinished == 0


def test_the_likeliest_option_is_found(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    model = load_model(tiny_model, dtype=torch.float32)
    path = tmp_path / "options.jsonl"
    options = ["yes", "no", "maybe"]
    made = [{"prompt": f"is it {i}?", "answer": "no", "options": options} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    held_out = load_eval_set(
        str(path), EvaluationSettings(), DataSettings(data="unused"), tokenizer
    )
    expected = 0
    for row in made:
        sums = {}
        for option in options:
            asked = [{"role": "user", "content": row["prompt"]}]
            text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            start = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            ids = tokenizer(f"{text}{option}<|im_end|>", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums[option] = sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids)))
        expected += max(sums, key=sums.get) == "no"
    result = evaluate(model, tokenizer, held_out, EvaluationSettings(max_new_tokens=2))
    assert result.score == "choice"
    assert result.likeliest == pytest.approx(expected / len(made))
