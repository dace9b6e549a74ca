"""Merge mode on a running engine: the same answers, whatever is merged meanwhile."""

import shutil
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import kinds_case
import pytest
import torch
from engine_case import BLOCK_BYTES, ask, ask_tokens, check_idle, start
from exactness import ADAPTERS, Family, answers
from kinds_case import Kinds

from gossamer.adapters.kinds.table import KINDS
from gossamer.errors import SettingError, UnknownModelError
from gossamer.llm import LLM
from gossamer.serving.scheduler.hot_merge import HotAdapterPolicy, HotLimits

from tiny import make_lora, module_shapes

# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

HOT = "r16-rslora"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """With biases in attention."""
    return Family(tmp_path_factory.mktemp("merge"), "qwen2")


@contextmanager
def served(family, **settings):
    settings = {"memory_gib": 0.05, "threads": 1, "merge_hot": True, **settings}
    with LLM(family.model, adapters=family.adapters, **settings) as llm:
        impatient(llm.engine)
        yield llm


def impatient(engine):
    """The mode acts after few steps, and prompts of others alone do not end it."""
    engine.runner.merger.policy = HotAdapterPolicy(HotLimits(window=6, leave=0.001))


def heat(engine, name):
    """Ask for `name` alone until it is merged."""
    for _ in range(50):
        ask_tokens(engine, name)
        if engine.stats().merged_adapter == name:
            return
    raise AssertionError("never merged")


def cool(engine):
    for _ in range(50):
        ask_tokens(engine, None)
        if engine.stats().merged_adapter is None:
            return
    raise AssertionError("never let go")


def majority(family, name, count=16):
    """The usual requests of all adapters, and more of one."""
    generator = torch.Generator().manual_seed(3)
    prompts = torch.randint(3, 259, (count, 9), generator=generator).tolist()
    return [*family.requests, *((prompt, name) for prompt in prompts)]


def watch(engine):
    """The distinct adapters of each step that ran merged."""
    seen = []
    build = engine.runner.builder.build

    def watching(step, merged=None):
        if merged is not None:
            seen.append({part.sequence.adapter for part in step})
        return build(step, merged)

    engine.runner.builder.build = watching
    return seen


@pytest.mark.parametrize("settings", [{}, {"backend": "reference"}], ids=str)
def test_answers_stay_the_same_hot_mixed_and_cold_again(family, settings):
    """Every adapter of the suite, and base-only ones, while one is merged and not."""
    requests = majority(family, HOT)
    with served(family, **settings) as llm:
        for completion in answers(llm, [request for request in requests if request[1] == HOT]):
            family.check(completion)
        heat(llm.engine, HOT)
        seen = watch(llm.engine)
        for completion in answers(llm, requests):
            family.check(completion)
        assert any(len(adapters) == len(ADAPTERS) + 1 for adapters in seen)
        cool(llm.engine)
        family.check_all(answers(llm, family.requests))
        stats = llm.engine.stats()
        check_idle(llm.engine)
    assert stats.adapter_merges >= 1
    assert 0 < stats.merged_steps < stats.steps


@pytest.mark.parametrize("name", ["r4-qv", "r8-bfloat16", "r64", "patterns"])
def test_any_of_them_can_be_the_hot_one(family, name):
    requests = majority(family, name, count=18)
    with served(family) as llm:
        heat(llm.engine, name)
        seen = watch(llm.engine)
        for completion in answers(llm, requests):
            family.check(completion)
    assert any(len(adapters) > 5 for adapters in seen)


def test_merging_and_letting_go_changes_no_bit_of_what_comes_after(family):
    requests = family.requests[:6]
    with served(family, prefix_cache=False) as llm:

        def one_by_one():
            # One alone owns the traffic; here nothing is to get hot.
            llm.engine.runner.merger.policy = HotAdapterPolicy()
            return [kinds_case.answers(llm, [request])[0] for request in requests]

        before = one_by_one()
        for _ in range(2):
            impatient(llm.engine)
            heat(llm.engine, HOT)
            answers(llm, majority(family, HOT))
            cool(llm.engine)
            after = one_by_one()
            assert llm.engine.stats().merged_adapter is None
            assert [c.token_ids for c in after] == [c.token_ids for c in before]
            assert [c.logprobs for c in after] == [c.logprobs for c in before]
        assert llm.engine.stats().adapter_merges >= 2


def test_int8_rows_are_merged_as_they_rest(family):
    """The rounded adapter: what is merged and what is subtracted are the same numbers."""
    requests = [*family.requests[:8], *[(prompt, HOT) for prompt, _ in family.requests[:12]]]
    settings = {"memory_gib": 0.05, "threads": 1, "adapter_rows": "int8"}
    with LLM(family.model, adapters=family.adapters, **settings) as llm:
        want = answers(llm, requests)
    with served(family, adapter_rows="int8") as llm:
        heat(llm.engine, HOT)
        got = answers(llm, requests)
        assert llm.engine.stats().merged_steps > 40
    assert_alike(got, want)


def test_weighted_requests_that_contain_the_hot_adapter(family):
    blends = [{HOT: 0.7, "r4-qv": 0.3}, {HOT: 1.0, "r1": -0.5}, {"r64": 0.5, "r1": 0.5}, {HOT: 0.4}]
    prompts = [[5, 6, 7, 8 + i] for i in range(len(blends))]
    more = [[9, 9, 4 + i] for i in range(12)]
    names = [*blends, *[HOT] * len(more)]
    off = {"memory_gib": 0.05, "threads": 1}
    with LLM(family.model, adapters=family.adapters, **off) as llm:
        want = llm.generate([*prompts, *more], adapter=names, sampling=kinds_case.GREEDY)
    with served(family) as llm:
        heat(llm.engine, HOT)
        got = llm.generate([*prompts, *more], adapter=names, sampling=kinds_case.GREEDY)
        assert llm.engine.stats().merged_steps > 15
    assert_alike(got, want)


def assert_alike(got, want):
    assert [c.token_ids for c in got] == [c.token_ids for c in want]
    for one, other in zip(got, want, strict=True):
        pairs = zip(one.logprobs, other.logprobs, strict=True)
        assert all(abs(a.logprob - b.logprob) < 1e-3 for a, b in pairs)


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_neighbours_of_every_kind_get_differences(tmp_path, model_type):
    """Gains see the base product, edits and prefixes what the base model makes of it."""
    family = Kinds(tmp_path, model_type)
    with served(family) as llm:
        heat(llm.engine, "lora")
        merger = llm.engine.runner.merger
        # Every step, so that their prompts are computed so too.
        merger.choose = lambda step: merger.merged
        seen = watch(llm.engine)
        for completion in kinds_case.answers(llm, family.requests):
            family.check(completion)
    kinds = {entry.kind for adapters in seen for entry in adapters if entry}
    assert kinds == {kind.kind for kind in KINDS}


def test_a_slow_merge_stalls_nobody(make_engine):
    engine = make_engine(merge_hot=True)
    impatient(engine)
    merge, begun, go_on = engine.runner.merger.merge, threading.Event(), threading.Event()

    def slow(entry, stop):
        begun.set()
        assert go_on.wait(60)
        return merge(entry, stop)

    engine.runner.merger.merge = slow
    try:
        while not begun.is_set():
            ask_tokens(engine, "r8")
        # Everything is answered while the copy is being made.
        assert all(len(ask_tokens(engine, name)) == 8 for name in ("r8", None, "r4", "qv", "r8"))
        assert engine.stats().merged_adapter is None
    finally:
        go_on.set()
    heat(engine, "r8")
    check_idle(engine)


@pytest.fixture
def own(tmp_path, tiny_model, make_engine):
    """A folder of its own, and an engine with merge mode on it."""
    for seed, name in enumerate(("hot", "other")):
        make_lora(tmp_path / name, tiny_model, rank=8, seed=seed, size=0.6)
    engine = make_engine(tmp_path, merge_hot=True)
    impatient(engine)
    return tmp_path, engine


def test_replaced_while_merged(own, tiny_model, make_engine):
    folder, engine = own
    heat(engine, "hot")
    old = ask_tokens(engine, "hot")
    shutil.rmtree(folder / "hot")
    make_lora(folder / "hot", tiny_model, rank=8, seed=77, size=0.6)
    new = ask_tokens(engine, "hot")
    assert new != old
    assert new == ask_tokens(make_engine(folder), "hot")
    # The new one gets hot in its turn, and says the same merged.
    merges = engine.stats().adapter_merges
    while engine.stats().adapter_merges == merges:
        ask_tokens(engine, "hot")
    assert ask_tokens(engine, "hot") == new
    check_idle(engine)


def test_removed_while_merged(own):
    folder, engine = own
    heat(engine, "hot")
    running = ask(engine, adapter="hot", max_tokens=60)
    shutil.rmtree(folder / "hot")
    running.wait()
    assert len(running.tokens) == 60
    with pytest.raises(UnknownModelError):
        ask(engine, adapter="hot")
    cool(engine)
    assert len(ask_tokens(engine, "other")) == 8
    check_idle(engine)


def test_evicted_while_merged(tmp_path, tiny_model, make_engine):
    for seed, name in enumerate(("hot", "other")):
        make_lora(tmp_path / name, tiny_model, rank=8, seed=seed, size=0.6)
    probe = make_engine(tmp_path)
    want = [ask_tokens(probe, name) for name in ("hot", "other")]
    blocks = probe.stats().blocks_adapters // 2
    # One of the two fits, beside a few tokens.
    engine = make_engine(tmp_path, merge_hot=True, num_blocks=blocks + 4)
    impatient(engine)
    heat(engine, "hot")
    assert ask_tokens(engine, "other") == want[1]
    assert engine.stats().adapter_evictions == 1
    check_idle(engine)
    assert engine.stats().merged_adapter != "hot"
    assert ask_tokens(engine, "hot") == want[0]
    heat(engine, "hot")
    assert ask_tokens(engine, "hot") == want[0]


def test_replaced_on_disk_before_it_is_merged_is_not_merged(own, tiny_model, caplog):
    folder, engine = own
    running = ask(engine, adapter="hot", max_tokens=1)
    running.wait()
    for file in (folder / "hot").iterdir():
        file.rename(file.with_suffix(".gone"))
    entry = engine.scheduler.memory.resident[0]
    with pytest.raises(Exception, match="hot"):
        engine.runner.merger.merge(entry, threading.Event())
    shutil.rmtree(folder / "hot")
    make_lora(folder / "hot", tiny_model, rank=8, seed=77, size=0.6)
    with pytest.raises(Exception, match="adapter hot was replaced on disk"):
        engine.runner.merger.merge(entry, threading.Event())


def test_off_unless_asked_for(make_engine):
    engine = make_engine()
    for _ in range(3):
        ask_tokens(engine, "r8", max_tokens=60)
    stats = engine.stats()
    assert (stats.merged_adapter, stats.adapter_merges, stats.merged_steps) == (None, 0, 0)


def test_memory_for_the_copy_is_kept_free(tiny_model, monkeypatch):
    """The pool may not take what the merged weights will need."""
    pool = 100 * BLOCK_BYTES
    linear = 4 * sum(h_out * h_in for h_out, h_in in module_shapes(tiny_model).values())
    free = SimpleNamespace(available=pool + linear - 1)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    start(tiny_model, num_blocks=100).shutdown()
    with pytest.raises(SettingError, match="GiB are free; give a smaller --memory"):
        start(tiny_model, num_blocks=100, merge_hot=True)
    free.available += 1
    start(tiny_model, num_blocks=100, merge_hot=True).shutdown()
