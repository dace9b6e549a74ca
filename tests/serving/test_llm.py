"""Offline use: lists in, completions out, in order; errors leave nothing running."""

import threading

import pytest
from engine_case import check_idle

from gossamer.errors import RequestError, SettingError, UnknownModelError, UsageError
from gossamer.kernels.grouped_lora import cpu as lora_cpu
from gossamer.kernels.paged_attention import cpu as attention_cpu
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import make_lora

GREEDY = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def adapters_of_llm(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    make_lora(folder / "a", tiny_model, rank=4, seed=1)
    make_lora(folder / "b", tiny_model, rank=20, seed=2)
    return folder


@pytest.fixture(scope="module")
def llm(adapters_of_llm, tiny_model):
    with LLM(str(tiny_model), adapters=adapters_of_llm, memory_gib=0.01, threads=1) as llm:
        yield llm


def test_one_prompt_or_many_text_or_tokens(llm):
    text = llm.generate("Hello", sampling=GREEDY)
    ids = llm.engine.tokenizer("Hello").input_ids
    assert llm.generate(ids, sampling=GREEDY) == text
    assert llm.generate(["Hello"], sampling=GREEDY) == text
    assert llm.generate(["Hello", ids, "Hello"], sampling=GREEDY) == text * 3
    assert llm.generate([], sampling=GREEDY) == []
    (one,) = text
    assert one.prompt_token_ids == tuple(ids)
    assert one.adapter is None
    assert len(one.token_ids) == 6
    assert one.text == llm.engine.tokenizer.decode(one.token_ids)
    assert one.finish_reason == "length"
    assert one.logprobs is None


def test_adapters_and_sampling_for_all_or_for_each(llm):
    prompts = ["x", "y", "x"]
    each = llm.generate(prompts, adapter=["a", None, "b"], sampling=GREEDY)
    assert [c.adapter for c in each] == ["a", None, "b"]
    for prompt, name, want in zip(prompts, ["a", None, "b"], each, strict=True):
        assert llm.generate(prompt, adapter=name, sampling=GREEDY) == [want]
    assert len({c.token_ids for c in llm.generate(["x"] * 2, adapter="a", sampling=GREEDY)}) == 1
    short = SamplingParams(max_tokens=2, temperature=0, logprobs=1, ignore_eos=True)
    one, two = llm.generate(["x", "x"], sampling=[GREEDY, short])
    assert two.token_ids == one.token_ids[:2]
    assert len(two.logprobs) == 2


def test_lists_that_do_not_fit_together(llm):
    with pytest.raises(UsageError, match="adapter: 2 given for 3 prompts"):
        llm.generate(["x"] * 3, adapter=["a", "b"])
    with pytest.raises(UsageError, match="sampling: 1 given for 2 prompts"):
        llm.generate(["x"] * 2, sampling=[GREEDY])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"adapter": ["a", "nobody", None]}, UnknownModelError),
        ({"sampling": [GREEDY, SamplingParams(top_p=2), GREEDY]}, RequestError),
    ],
    ids=["adapter", "sampling"],
)
def test_one_wrong_prompt_ends_the_call_and_leaves_nothing_running(llm, options, error):
    with pytest.raises(error):
        llm.generate(["x", "y", "z"], **options)
    check_idle(llm.engine)


def test_an_adapter_that_proves_broken_raises_its_error(llm, adapters_of_llm, tiny_model):
    folder = adapters_of_llm / "torn"
    make_lora(folder, tiny_model, rank=2)
    (folder / "adapter_model.safetensors").write_bytes(b"xx")
    for _ in range(2):
        with pytest.raises(Exception, match="torn"):
            llm.generate(["x", "y"], adapter=["torn", None], sampling=GREEDY)
    check_idle(llm.engine)


def test_more_prompts_than_a_server_would_queue(llm):
    prompts = [[3 + i % 250] for i in range(1500)]
    one_token = SamplingParams(max_tokens=1, temperature=0)
    completions = llm.generate(prompts, sampling=one_token)
    assert [c.prompt_token_ids for c in completions] == [tuple(p) for p in prompts]
    assert completions[0].token_ids == completions[250].token_ids


def test_calls_from_several_threads(llm):
    want = {name: llm.generate("Hi", adapter=name, sampling=GREEDY) for name in (None, "a", "b")}
    wrong = []

    def work(name):
        for _ in range(5):
            if llm.generate("Hi", adapter=name, sampling=GREEDY) != want[name]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in want for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_chat_uses_the_models_template(llm):
    turns = [{"role": "user", "content": "Hi"}]
    (one,) = llm.chat(turns, sampling=GREEDY)
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert llm.engine.tokenizer.decode(one.prompt_token_ids) == prompt
    assert llm.chat([turns, turns], sampling=GREEDY) == [one, one]


def test_nothing_is_compiled_after_the_start(llm):
    """Kernels are compiled before the first request: one form of each, whatever a step is like."""
    llm.generate(["x" * n for n in (1, 5, 40, 100)], adapter=["a", "b", None, "a"], sampling=GREEDY)
    for kernel in (lora_cpu.add_lora, attention_cpu.attend, attention_cpu.write_kv):
        assert len(kernel.signatures) == 1, kernel.signatures


def test_unknown_settings_name_the_nearest(tiny_model):
    with pytest.raises(SettingError, match="did you mean 'memory_gib'"):
        LLM(str(tiny_model), memory_gb=1)
