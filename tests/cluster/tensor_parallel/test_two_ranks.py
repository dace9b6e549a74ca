"""Two processes say what one says: adapters of all kinds in one batch, whatever comes and goes."""

import random
import time

import pytest
import torch
from engine_case import ask, check_idle
from kinds_case import NAMES, Kinds, answers
from ranks_case import count_collectives, followers, is_running, llm, wait_until

from gossamer.errors import SettingError
from gossamer.serving.core.messages import Finished, SamplingParams
from gossamer.serving.packing.capacity import PoolSizes
from gossamer.serving.packing.low_rank import cost_of_rank
from gossamer.serving.runner.model_shape import base_sizes

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

LAYERS = 3


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """It has biases in q, k and v, and an output layer of its own."""
    return Kinds(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.fixture(scope="module")
def two(family):
    with llm(family, 2, block_tokens=32) as ranks:
        yield ranks


def test_a_mixed_batch_says_what_each_reference_says(two, family):
    completions = answers(two, family.requests)
    family.check_all(completions)


def test_prompts_have_the_scores_of_each_reference(two, family):
    """Each rank has a part of the output layer."""
    prompts, names = zip(*family.requests, strict=True)
    sampling = SamplingParams(max_tokens=0, prompt_logprobs=1)
    for completion in two.generate(list(prompts), adapter=list(names), sampling=sampling):
        prompt = completion.prompt_token_ids
        told = [each.logprob for each in completion.prompt_logprobs[1:]]
        want = family.prompt_logprobs(completion.adapter, prompt)
        own = want.gather(1, torch.tensor(prompt)[1:, None])[:, 0]
        assert told == pytest.approx(own.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "name", [None, "lora", "dora", "shira", "ia3", "loreft", "prefix", "sherl", "meft"]
)
def test_a_step_takes_two_sums_a_layer_one_for_the_embedding_and_a_gather(two, monkeypatch, name):
    """Adapters add none."""
    ask(two.engine, adapter=name, max_tokens=1).wait()  # it is loaded before it is counted
    steps = two.engine.stats().steps
    counts = count_collectives(monkeypatch)
    ask(two.engine, adapter=name, max_tokens=6).wait()
    steps = two.engine.stats().steps - steps
    assert steps >= 6
    assert counts == {"all_reduce": steps * (2 * LAYERS + 1), "gather": steps}


def test_a_rank_s_pool_has_as_many_blocks_of_half_the_bytes(two, family):
    """32 tokens of one of the two key/value heads, where one process has 16 of both."""
    with llm(family, 1) as one:
        assert one.engine.stats().blocks_total == two.engine.stats().blocks_total
        assert one.engine.model.limits.block_bytes == two.engine.model.limits.block_bytes


def test_a_share_of_an_adapter_weighs_what_the_plan_says(two, family):
    """The narrow ends of the factors are on every rank, the rest is divided."""
    ask(two.engine, adapter="lora", max_tokens=1).wait()
    (status,) = [each for each in two.engine.adapters() if each.name == "lora"]
    share = PoolSizes(base=base_sizes(family.model, num_ranks=2), block_tokens=32, row_width=4)
    whole = PoolSizes(base=base_sizes(family.model), block_tokens=16, row_width=4)
    assert status.num_bytes == cost_of_rank(share, 8).num_bytes
    assert share.block_bytes == whole.block_bytes == two.engine.model.limits.block_bytes
    assert 0.5 < status.num_bytes / cost_of_rank(whole, 8).num_bytes < 0.8


def test_adapters_that_come_and_go_are_the_same_on_all_ranks(two):
    """Requests of all kinds, many cancelled at any moment, adapters unloaded and back again."""
    rng = random.Random(2)
    engine = two.engine
    requests = []
    for number in range(60):
        prompt = [rng.randrange(3, 259) for _ in range(rng.choice((1, 9, 40)))]
        names = [None, *NAMES, "lora:0.5+shira:0.5"]
        requests.append(ask(engine, prompt, rng.choice(names), max_tokens=rng.choice((1, 5, 20))))
        if rng.random() < 0.4:
            engine.cancel(rng.choice(requests).id)
        if number % 20 == 19:
            engine.unload_adapter("lora")
            engine.load_adapter("lora").result(60)
    for request in requests:
        assert isinstance(request.wait(), Finished), request.finals
    check_idle(engine)
    engine.audit()
    assert engine.scheduler.memory.resident


def test_an_idle_server_keeps_its_ranks(two):
    """Rank 0 speaks up before the others take its silence for its end."""
    leader = two.engine.runner.team
    sent = leader.ranks.control.num_messages
    usual, leader.ping_seconds = leader.ping_seconds, 0.1
    wait_until(lambda: leader.ranks.control.num_messages >= sent + 3)
    leader.ping_seconds = usual
    assert two.engine.healthy()


def test_a_decode_step_of_all_kinds_is_told_in_few_bytes(two):
    control = two.engine.runner.team.ranks.control
    many = [ask(two.engine, adapter=name, max_tokens=30) for name in [None, *NAMES] * 3]
    for request in many:
        request.wait()
    sent, told = control.num_messages, control.num_bytes
    ask(two.engine, adapter="lora", max_tokens=40).wait()
    assert (control.num_bytes - told) / (control.num_messages - sent) < 100


def test_another_model_waits_for_its_turn(two, family):
    """A process can hold one such model; that is said before anything is started."""
    with pytest.raises(SettingError, match="one process can hold one tensor-parallel model"):
        llm(family, 2)


def test_a_number_that_the_heads_do_not_allow_is_refused_at_once(family):
    begun = time.monotonic()
    with pytest.raises(SettingError, match=r"tensor_parallel=3: .* 4 attention heads.* 1, 2, 4"):
        llm(family, 3)
    assert time.monotonic() - begun < 2


def test_the_ranks_end_with_the_engine(family, two):
    """The last test of the file: it closes what the others use."""
    pids = followers(two.engine)
    assert all(map(is_running, pids))
    two.close()
    assert not any(map(is_running, pids))
    assert not two.engine.healthy()
    two.close()
