"""Replicas that look into a folder themselves: the answers and errors of one engine on it."""

import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
from engine_case import ask, ask_tokens, start

from gossamer.cluster.placement.homes import Homes
from gossamer.cluster.placement.ledger import QuotaLeases, QuotaLedger
from gossamer.cluster.replicas.engine import ReplicaEngine
from gossamer.cluster.replicas.folder_names import FolderNames
from gossamer.cluster.replicas.remote_engine import RemoteEngine
from gossamer.errors import RequestError, UnknownModelError
from gossamer.serving.core.messages import Finished
from gossamer.serving.core.tenants import unlimited

from tiny import make_lora

NAMES = [None, "a0", "a1", "a2", "a3", "second", "a0:0.5+a1:-1"]


class FolderReplicas:
    """Calls replicas of this process, at the homes of their adapters."""

    def __init__(self, replicas):
        self.replicas, self.homes, self.taken = replicas, Homes(), []
        self.homes.set_members(range(len(replicas)))

    async def call(self, call):
        rank = next(self.homes.order(call.home_of, Counter()))
        self.taken.append((call.home_of, rank))
        async for batch in self.replicas[rank].generate(call):
            yield batch

    def figures(self):
        return [replica.figures() for replica in self.replicas]


@pytest.fixture(scope="module")
def case(family, tmp_path_factory, loop):
    """Two replicas and an ingress's engine on one folder, and one engine alone."""
    folder = tmp_path_factory.mktemp("folder")
    shutil.copytree(family / "runs", folder, dirs_exist_ok=True)
    (folder / "second").symlink_to("a2")
    engines = [start(family / "base", (folder,)) for _ in range(3)]
    replicas = [ReplicaEngine(engine, None, rank) for rank, engine in enumerate(engines[:2])]
    local, facts = FolderReplicas(replicas), replicas[0].facts()
    names = FolderNames((folder,), facts.model_name)
    quotas = QuotaLeases("here", unlimited, QuotaLedger().lease)
    engine = RemoteEngine(facts, engines[0].tokenizer, names, local, quotas, loop)
    yield SimpleNamespace(
        engine=engine, local=local, alone=engines[2], folder=folder, base=family / "base"
    )
    engine.shutdown()
    for each in engines:
        each.shutdown()


def test_answers_are_those_of_one_engine_and_each_adapter_has_one_home(case):
    for name in NAMES:
        found = [ask(case.engine, (5, 6, 7), name) for _ in range(2)]
        assert all(isinstance(each.wait(), Finished) for each in found)
        expected = ask_tokens(case.alone, name, prompt=(5, 6, 7))
        assert [each.tokens for each in found] == [expected] * 2
    places = {}
    for name, rank in case.local.taken:
        places.setdefault(name, set()).add(rank)
    del places[None]
    assert all(len(ranks) == 1 for ranks in places.values())
    assert "second" not in places, "another name of an adapter is at home where that is"


def test_new_files_and_new_adapters_are_found(case, tmp_path):
    with pytest.raises(UnknownModelError):
        case.engine.look_up("later").result()
    first = make_lora(tmp_path / "first", case.base, rank=4, seed=90)
    other = make_lora(tmp_path / "other", case.base, rank=4, seed=91)
    answers = []
    for made in (first, other):
        shutil.rmtree(case.folder / "later", ignore_errors=True)
        shutil.copytree(made, case.folder / "later")
        answers.append(ask_tokens(case.engine, "later", prompt=(9, 8, 7), max_tokens=12))
        assert answers[-1] == ask_tokens(case.alone, "later", prompt=(9, 8, 7), max_tokens=12)
    assert answers[0] != answers[1]
    shutil.rmtree(case.folder / "later")


def test_lists_and_single_ones_are_shown(case):
    names = ["a0", "a1", "a2", "a3", "second"]
    assert [each.name for each in case.engine.adapters()] == names
    assert [each.name for each in case.engine.adapters_after("a1", 2)] == ["a2", "a3"]
    assert case.engine.adapter("second").alias_of == "a2"
    assert case.engine.adapter("a0:0.5+a1:-1").name == "a0:0.5+a1:-1"
    assert case.engine.count_adapters() == 5
    with pytest.raises(UnknownModelError, match="did you mean 'a"):
        case.engine.adapter("aO")


def test_an_error_of_a_replica_names_the_adapter(case):
    shutil.copytree(case.folder / "a0", case.folder / "torn")
    weights = case.folder / "torn" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    final = ask(case.engine, adapter="torn").wait()
    assert "torn" in str(final.error)
    shutil.rmtree(case.folder / "torn")


def test_none_is_loaded_through_an_ingress(case):
    for call in (case.engine.load_adapter, case.engine.unload_adapter):
        with pytest.raises(RequestError, match="put adapters into a folder of --adapters"):
            call("a0")
