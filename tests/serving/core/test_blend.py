"""Several adapters with weights in one request: names, states, tokens of the merged sum."""

import copy
import random

import numpy as np
import pytest
import torch
from engine_case import ask, check_idle, refusal, standing_still
from kinds_case import GREEDY, Kinds, answers
from policy_fakes import entry_in

from gossamer.adapters.load import load_adapter
from gossamer.errors import RequestError, UnknownModelError, UnsupportedAdapterError
from gossamer.llm import LLM
from gossamer.serving.core.adapter import (
    Blend,
    adapters_in,
    blend_name,
    parse_blend,
)
from gossamer.serving.core.adapter_state import AdapterState
from gossamer.serving.core.stats import status_of_blend
from gossamer.serving.store.folder import AdapterFolder
from gossamer.serving.store.names import AdapterNames


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", None),
        ("a:0.7+b:0.3", [("a", 0.7), ("b", 0.3)]),
        ("a + b", [("a", 1.0), ("b", 1.0)]),
        ("a:-1e-1", [("a", -0.1)]),
        ("x.y-z:2+b", [("x.y-z", 2.0), ("b", 1.0)]),
    ],
)
def test_names(name, parts):
    assert parse_blend(name) == parts
    if parts:
        assert parse_blend(blend_name(dict(parts))) == parts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a:x", "'x' is not a weight"),
        ("a:nan+b", "'nan' is not a weight"),
        ("a:", "'' is not a weight"),
        ("a:inf", "the weight inf cannot"),
        ("a:0.5+b:1e39", "the weight 1e39 cannot"),
        ("a:-3.5e38", "the weight -3.5e38 cannot"),
        ("a:1e400", "the weight 1e400 cannot"),
        ("a:1e-39", "the weight 1e-39 cannot"),
        ("a:-1e-320", "the weight -1e-320 cannot"),
        ("a++b", "name is missing"),
        (":0.5", "name is missing"),
        ("a:1+a:2", "'a' is named twice"),
        ("+".join(f"a{i}" for i in range(9)), "9 adapters are more than 8"),
    ],
)
def test_names_that_make_no_sense(name, words):
    with pytest.raises(RequestError, match=r"model '.*such as poet:0.7") as caught:
        parse_blend(name)
    assert words in str(caught.value)


def test_weights_of_any_type_of_number():
    weights = {"a": np.float32(0.5), "b": 2, "c": np.float64(1e-3)}
    assert blend_name(weights) == "a:0.5+b:2.0+c:0.001"
    with pytest.raises(RequestError, match="cannot be computed with"):
        parse_blend(blend_name({"a": 10**400}))


SIGNS = ["a", "b", "_", ":", "+", " ", "1", ".", "\t", "\u00a0", "é", "/"]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_judged_is_what_is_looked_up(seed, tmp_path):
    """Of any text, the names that access is judged by are those of the adapters that come of it."""
    rng = random.Random(seed)
    for name in ("a", "b", "_a", "a:b", "a+b", "a:1", " a", "a ", "ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "adapter_model.safetensors").write_text("")
    names = AdapterNames(AdapterFolder(tmp_path))
    num_found = 0
    texts = ["".join(rng.choices(SIGNS, k=rng.randint(1, 6))) for _ in range(200)]
    for text in ["a:1", "a+b", " _a:1 + b", *texts]:
        try:
            found = names.look_up(text)
        except (RequestError, UnknownModelError):
            continue
        assert tuple(part.name for part in found.parts) == adapters_in(text)
        num_found += 1
    assert num_found >= 3
    with pytest.raises(UnknownModelError):
        names.look_up_one("b:1")


def test_a_mixture_is_shown_as_far_as_its_last_part():
    blend = Blend(
        (entry("a", AdapterState.RESIDENT, 3), entry("b", AdapterState.HOST, 4)), (0.5, 0.5)
    )
    shown = status_of_blend(blend, "a:0.5+b:0.5")
    assert (shown.name, shown.state, shown.kind) == ("a:0.5+b:0.5", "host", "low-rank")
    assert shown.num_bytes == 7


def entry(name, state, blocks=None, kind="low-rank"):
    known = {"num_blocks": blocks, "num_bytes": blocks, "kind": kind} if blocks else {}
    return entry_in(state, name, **known)


def test_a_blend_is_as_far_as_its_last_part():
    resident, host = entry("a", AdapterState.RESIDENT, 3), entry("b", AdapterState.HOST, 4)
    blend = Blend((resident, host), (0.5, 0.5))
    assert (blend.state, blend.num_blocks, blend.blocks_to_load) == (AdapterState.HOST, 7, 4)
    assert blend == Blend((resident, host), (0.5, 0.5))
    assert blend != Blend((resident, host), (0.5, 0.6))
    blend = Blend((resident, entry("c", AdapterState.LOADING)), (1.0, 1.0))
    assert (blend.state, blend.num_blocks) == (AdapterState.LOADING, None)
    blend = Blend((resident, entry("d", AdapterState.HOST, 2, "gain")), (1.0, 1.0))
    assert blend.state is AdapterState.REFUSED
    assert "kind gain" in str(blend.error)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return Kinds(tmp_path_factory.mktemp("blend"))


class Merged:
    """The base with a weighted sum of changes in its weights; answers to `Kinds.check`."""

    def __init__(self, family, weights):
        self.model = copy.deepcopy(family.base)
        for name, weight in weights.items():
            folder = family.adapters / name
            if name.startswith("shira"):
                for path, delta in load_adapter(folder).deltas.items():
                    target = self.model.get_submodule(path).weight.data
                    change = torch.zeros_like(target)
                    delta.add_to(change)
                    target += weight * change
            else:
                for path, pair in load_adapter(folder).factors.items():
                    target = self.model.get_submodule(path).weight.data
                    target += weight * pair.scale * (pair.b @ pair.a)

    def __call__(self, input_ids):
        return self.model(input_ids=input_ids)


BLENDS = [
    {"lora": 0.7, "lora-qv": 0.3},
    {"lora": 0.6, "shira": -0.5, "lora-qv": 1.5},
    {"shira-v": 2.0, "shira": 0.4},
    {"lora": 0.5},
    {"shira": 0.0, "lora-qv": 1.0},
]


def test_weighted_sums_beside_all_other_kinds(family):
    names = [blend_name(weights) for weights in BLENDS]
    for name, weights in zip(names, BLENDS, strict=True):
        family._references[name] = Merged(family, weights)
    prompts = [prompt for prompt, _ in family.requests]
    requests = [*zip(prompts, [*names, *names[::-1]], strict=False), *family.requests]
    for settings in ({}, {"max_batch_tokens": 33, "backend": "reference"}):
        with LLM(
            family.model, adapters=family.adapters, memory_gib=0.05, threads=2, **settings
        ) as llm:
            for completion in answers(llm, requests):
                if completion.adapter in names:
                    family.check(completion)


def test_weights_from_python_and_the_same_tokens_alone(family):
    with LLM(family.model, adapters=family.adapters, memory_gib=0.05, threads=1) as llm:
        one = llm.generate("hello", adapter={"lora": 0.6, "shira": -0.5}, sampling=GREEDY)
        two = llm.generate("hello", adapter="lora:0.6+shira:-0.5", sampling=GREEDY)
        plain = llm.generate("hello", adapter="lora", sampling=GREEDY)
        whole = llm.generate("hello", adapter="lora:1", sampling=GREEDY)
    assert one[0].token_ids == two[0].token_ids != plain[0].token_ids
    assert whole[0].token_ids == plain[0].token_ids


def test_what_cannot_be_combined_is_refused_by_name(make_engine, adapters, family):
    engine = make_engine()
    assert isinstance(refusal(engine, adapter="r4:0.5+nobody:0.5"), UnknownModelError)
    assert isinstance(refusal(engine, adapter="r4:0.5+r8:lots"), RequestError)
    with standing_still(engine):
        other, vast = ask(engine), ask(engine, adapter="r4:3e38+r8:3e38")
    assert isinstance(vast.wait().error, RequestError)
    assert "use smaller weights" in str(vast.finals[0].error)
    assert other.wait().finish_reason == "length"
    late = ask(engine, adapter="r4:0.5+torn:0.5").wait()
    assert "torn" in str(late.error)
    with LLM(family.model, adapters=family.adapters, memory_gib=0.05, threads=1) as llm:
        for other in ("dora", "ia3", "loreft", "prompt"):
            with pytest.raises(UnsupportedAdapterError, match=f"adapter {other} is of kind"):
                llm.generate("hello", adapter=f"lora+{other}:0.5", sampling=GREEDY)


def test_parts_come_and_go_like_any_adapter(make_engine):
    """r64 takes 52 blocks: one part is evicted to make room, none that is in use."""
    engine = make_engine(num_blocks=80)
    alone = [ask(engine, adapter=name).wait() and name for name in ("r8", "r16", "r4")]
    assert alone
    first = ask(engine, adapter="r64:0.5+r8:0.5", max_tokens=20)
    others = [ask(engine, adapter=name, max_tokens=5) for name in ("r16", "r4", "r16:0.5+r4:0.5")]
    for each in [first, *others]:
        assert each.wait().finish_reason == "length"
    again = ask(engine, adapter="r64:0.5+r8:0.5", max_tokens=20)
    again.wait()
    assert again.tokens == first.tokens
    too_big = ask(make_engine(num_blocks=60), adapter="r64:0.5+r16:0.5").wait()
    assert "--memory" in str(too_big.error)
    check_idle(engine)
