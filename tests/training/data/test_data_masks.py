"""Which tokens are trained on, for several chat templates and for plain text."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gossamer.errors import DataError, UnsupportedModelError

from tiny import CHAT_TEMPLATE, tiny_tokenizer

DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{{ '<|im_start|>' }}{% for m in messages %}[{{ m['role'] }}]\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n\n{% endif %}"
)
INST = (
    "<|im_start|>{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}"
    "<|im_end|>{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ raise_exception('no system role here') }}{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# Keeps what stands before </think> in the last answer only.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last %}{{ m['content'] }}{% else %}{{ m['content'].split('</think>')[-1] }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STABLE = {
    "chatml": CHAT_TEMPLATE,
    "default-system": DEFAULT_SYSTEM,
    "headers": HEADERS,
    "inst": INST,
    "no-end": NO_END,
}

PAIR = {"prompt": "What is 2+2?", "completion": "It is 4."}
TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "see you"},
]


def with_template(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def merging_tokenizer(merges, *, bos=False):
    """Byte-level with some merges; optionally puts <|im_start|> before any text, as Llama does."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += ["".join(pair) for pair in merges]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


def served(tokenizer, messages):
    """The token ids that the server sends for a chat request."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("name", STABLE)
def test_prompt_tokens_are_those_of_serving(name, load, write, trained):
    tokenizer = with_template(STABLE[name])
    (example,) = load(write([PAIR]), tokenizer=tokenizer).train
    prompt = served(tokenizer, [{"role": "user", "content": PAIR["prompt"]}])
    assert example.input_ids[: len(prompt)] == prompt
    assert example.labels[: len(prompt)] == [-100] * len(prompt)
    assert -100 not in example.labels[len(prompt) :]
    (text,) = trained(tokenizer, example)
    assert text.strip() == "It is 4.<|im_end|>"
    assert example.input_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", STABLE)
def test_every_assistant_turn_is_trained_exactly(name, load, write, trained):
    tokenizer = with_template(STABLE[name])
    (example,) = load(write([{"messages": TALK}]), tokenizer=tokenizer).train
    texts = [text.strip() for text in trained(tokenizer, example)]
    middle = "hello" if name == "no-end" else "hello<|im_end|>"
    assert texts == [middle, "see you<|im_end|>"]
    # What precedes the second answer is what the server sends at that point.
    history = served(tokenizer, TALK[:3])
    assert example.input_ids[: len(history)] == history


def test_consecutive_assistant_turns_and_a_system_message(load, write, trained, tokenizer):
    talk = [{"role": "system", "content": ""}, *TALK[:2], {"role": "assistant", "content": "hm?"}]
    (example,) = load(write([{"messages": talk}])).train
    assert trained(tokenizer, example) == ["hello<|im_end|>", "hm?<|im_end|>"]


def test_what_follows_the_last_answer_is_left_out(load, write, tokenizer):
    longer = [*TALK, {"role": "user", "content": "wait"}]
    (example,) = load(write([{"messages": longer}])).train
    (shorter,) = load(write([{"messages": TALK}])).train
    assert example == shorter
    (everything,) = load(write([{"messages": longer}]), train_on="all").train
    assert "wait" in tokenizer.decode(everything.input_ids)
    assert everything.labels[1:] == everything.input_ids[1:]


def test_train_on_all_counts_every_token_but_the_first(load, write):
    for chat_template in (True, False):
        (example,) = load(write([PAIR]), train_on="all", chat_template=chat_template).train
        (masked,) = load(write([PAIR]), chat_template=chat_template).train
        assert example.input_ids == masked.input_ids
        assert example.labels == [-100, *example.input_ids[1:]]


def test_prompt_and_completion_as_message_lists(load, write, trained, tokenizer):
    row = {"prompt": TALK[:3], "completion": TALK[3:]}
    (example,) = load(write([row])).train
    assert trained(tokenizer, example) == ["see you<|im_end|>"]
    prompt = served(tokenizer, TALK[:3])
    assert example.input_ids[: len(prompt)] == prompt


def test_instruction_rows(load, write, trained, tokenizer):
    row = {"instruction": "Translate.", "input": "Hund", "output": "dog"}
    (example,) = load(write([row])).train
    prompt = served(tokenizer, [{"role": "user", "content": "Translate.\n\nHund"}])
    assert example.input_ids[: len(prompt)] == prompt
    assert trained(tokenizer, example) == ["dog<|im_end|>"]
    for nothing in ("", None):
        (bare,) = load(write([{**row, "input": nothing}])).train
        assert "Translate.<|im_end|>" in tokenizer.decode(bare.input_ids)
    (plain,) = load(write([row]), chat_template=False).train
    assert tokenizer.decode(plain.input_ids) == "Translate.\n\nHund\n\ndog<|im_end|>"
    assert trained(tokenizer, plain) == ["dog<|im_end|>"]


def test_text_rows_count_in_full(load, write, trained, tokenizer):
    data = load(write([{"text": "Once upon"}, {"text": "The end<|im_end|>"}]))
    assert tokenizer.decode(data.train[0].input_ids) == "Once upon<|im_end|>"
    assert trained(tokenizer, data.train[0]) == ["nce upon<|im_end|>"]
    # An end that the text already has is not doubled.
    assert tokenizer.decode(data.train[1].input_ids) == "The end<|im_end|>"


def test_plain_pairs_are_joined_as_given(load, write, trained, tokenizer):
    (example,) = load(
        write([{"prompt": "Q: 2+2\nA:", "completion": " 4"}]), chat_template=False
    ).train
    assert tokenizer.decode(example.input_ids) == "Q: 2+2\nA: 4<|im_end|>"
    assert trained(tokenizer, example) == [" 4<|im_end|>"]


@pytest.mark.parametrize("bos", [False, True])
def test_no_token_spans_the_border(bos, load, write):
    tokenizer = merging_tokenizer([("a", "b")], bos=bos)
    row = {"prompt": "xa", "completion": "bab"}
    assert len(tokenizer("xabab", add_special_tokens=False).input_ids) == 3
    (example,) = load(write([row]), tokenizer=tokenizer, chat_template=False).train
    prompt = tokenizer("xa").input_ids
    assert example.input_ids[: len(prompt)] == prompt
    assert (example.input_ids[0] == tokenizer.bos_token_id) == bos
    completion = tokenizer("bab", add_special_tokens=False).input_ids
    assert example.input_ids[len(prompt) :] == [*completion, tokenizer.eos_token_id]
    assert example.labels == [-100] * len(prompt) + [*completion, tokenizer.eos_token_id]


def test_no_token_spans_the_border_in_a_template(load, write, trained):
    tokenizer = merging_tokenizer([("Ċ", "h"), ("h", "e")])
    tokenizer.chat_template = CHAT_TEMPLATE
    (example,) = load(write([{"messages": TALK}]), tokenizer=tokenizer).train
    prompt = served(tokenizer, TALK[:1])
    assert example.input_ids[: len(prompt)] == prompt
    assert trained(tokenizer, example) == ["hello<|im_end|>", "see you<|im_end|>"]


def test_template_that_rewrites_earlier_turns_is_refused(load, write, trained):
    tokenizer = with_template(FORGETFUL)
    talk = [
        {**m, "content": f"hm</think>{m['content']}"} if m["role"] == "assistant" else m
        for m in TALK
    ]
    path = write([{"messages": talk}])
    with pytest.raises(DataError, match=r"line 1: .*messages\[1\] differently"):
        load(path, tokenizer=tokenizer)
    # Without a mask there is no border to find.
    (whole,) = load(path, tokenizer=tokenizer, train_on="all").train
    assert tokenizer.decode(whole.input_ids) == tokenizer.apply_chat_template(talk, tokenize=False)
    assert whole.labels[1:] == whole.input_ids[1:]
    # Single answers are not touched by it.
    (example,) = load(write([{"messages": talk[:2]}]), tokenizer=tokenizer).train
    assert trained(tokenizer, example) == ["hm</think>hello<|im_end|>"]


def test_template_that_refuses_a_role(load, write):
    talk = [{"role": "system", "content": "Be kind."}, *TALK]
    with pytest.raises(DataError, match=r"line 1: .*template refuses it: no system role here"):
        load(write([{"messages": talk}]), tokenizer=with_template(INST))


def test_broken_template(load, write):
    with pytest.raises(UnsupportedModelError, match="template is broken"):
        load(write([PAIR]), tokenizer=with_template("{% for %}"))


def test_no_template(load, write):
    tokenizer = with_template(None)
    with pytest.raises(UnsupportedModelError, match="--set chat_template=false"):
        load(write([PAIR]), tokenizer=tokenizer)
    assert load(write([PAIR]), tokenizer=tokenizer, chat_template=False).train
    assert load(write([{"text": "hello"}]), tokenizer=tokenizer).train
    with pytest.raises(DataError, match="conversations, which need the chat template"):
        load(write([{"messages": TALK}]), tokenizer=tokenizer, chat_template=False)


def test_no_end_of_text_token(load, write):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UnsupportedModelError, match="no end-of-text token"):
        load(write([{"text": "hello"}]), tokenizer=tokenizer)


def test_preview_marks_what_is_trained(load, write, tokenizer):
    text = load(write([PAIR, PAIR, PAIR])).preview(tokenizer, n=2)
    assert "<|im_start|>assistant\n>>>It is 4.<|im_end|><<<" in text
    assert text.count("<|im_start|>user\nWhat is 2+2?<|im_end|>\n") == 2
    assert "example 2: " in text
    assert "example 3: " not in text


def test_turns_of_weight_0_are_context(load, write, trained, tokenizer):
    weighed = [TALK[0], {**TALK[1], "weight": 0}, TALK[2], {**TALK[3], "weight": 1}]
    (example,) = load(write([{"messages": weighed}])).train
    (whole,) = load(write([{"messages": TALK}])).train
    assert example.input_ids == whole.input_ids
    assert trained(tokenizer, example) == ["see you<|im_end|>"]
    # What follows the last answer that is learnt from is left out.
    first = [TALK[0], TALK[1], TALK[2], {**TALK[3], "weight": 0}]
    (example,) = load(write([{"messages": first}])).train
    assert trained(tokenizer, example) == ["hello<|im_end|>"]
    assert "bye" not in tokenizer.decode(example.input_ids)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [(0.5, "weight must be 0 or 1, got float 0.5"), (0, "all assistant turns")],
)
def test_weights_that_leave_nothing_or_a_part_are_refused(weight, reason, load, write):
    with pytest.raises(DataError, match=reason):
        load(write([{"messages": [TALK[0], {**TALK[1], "weight": weight}]}]))


def test_the_last_turn_alone(load, write, trained, tokenizer):
    (example,) = load(write([{"messages": TALK}]), train_on="last").train
    (whole,) = load(write([{"messages": TALK}])).train
    assert example.input_ids == whole.input_ids
    assert trained(tokenizer, example) == ["see you<|im_end|>"]
    # Templates that write earlier turns differently later on have a border for the last one.
    thinking = with_template(FORGETFUL)
    talk = [TALK[0], {"role": "assistant", "content": "hm</think>hello"}, *TALK[2:]]
    (example,) = load(write([{"messages": talk}]), tokenizer=thinking, train_on="last").train
    assert trained(thinking, example) == ["see you<|im_end|>"]
