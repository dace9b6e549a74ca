"""The grammar of --methods and --budget, and what a comparison refuses before anything runs."""

import pytest

from gossamer.errors import GossamerError
from gossamer.training.comparison.entries import parse_entries
from gossamer.training.comparison.settings import CompareSettings, ComparisonBudget, parse_budget


def parsed(*texts):
    return [(entry.method, {**entry.given, **entry.run}) for entry in parse_entries(texts)]


@pytest.mark.parametrize(
    ("texts", "entries"),
    [
        (["lora,dora,full"], [("lora", {}), ("dora", {}), ("full", {})]),
        (["lora", "dora"], [("lora", {}), ("dora", {})]),
        (["lora:rank=4,alpha=8"], [("lora", {"rank": 4, "alpha": 8})]),
        (
            ["lora:rank=4,alpha=8,dora,full:learning_rate=1e-4"],
            [("lora", {"rank": 4, "alpha": 8}), ("dora", {}), ("full", {"learning_rate": 1e-4})],
        ),
        (["lora:rank=4 lora:rank=32"], [("lora", {"rank": 4}), ("lora", {"rank": 32})]),
        (["lora:rank=4,lora:rank=32"], [("lora", {"rank": 4}), ("lora", {"rank": 32})]),
        (
            ["lora:target_modules=[q_proj, v_proj],rank=2,dora"],
            [("lora", {"target_modules": ["q_proj", "v_proj"], "rank": 2}), ("dora", {})],
        ),
        (
            ["lora:rank_pattern={down_proj: 4, up_proj: 2}"],
            [("lora", {"rank_pattern": {"down_proj": 4, "up_proj": 2}})],
        ),
        (["none"], []),
        (["lora, dora"], [("lora", {}), ("dora", {})]),
    ],
)
def test_entries_are_told_apart(texts, entries):
    assert parsed(*texts) == entries


def test_several_rates_are_an_entry_each_that_know_one_another():
    text = "smt:block_size=64,learning_rate=[1e-4, 1e-3]"
    entries = parse_entries([text, "lora"])
    assert [entry.label for entry in entries] == [
        "smt:block_size=64,learning_rate=1e-4",
        "smt:block_size=64,learning_rate=1e-3",
        "lora",
    ]
    assert [entry.run for entry in entries] == [
        {"learning_rate": 1e-4},
        {"learning_rate": 1e-3},
        {},
    ]
    assert [entry.rates_of for entry in entries] == [text, text, None]
    assert len({entry.folder for entry in entries}) == 3
    # The speed of a step does not depend on the rate.
    assert entries[0].timing_folder == entries[1].timing_folder != entries[2].timing_folder


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([""], "--methods is empty"),
        (["lora:learning_rate=[1e-3]"], "give learning_rate a number, or several rates"),
        (["lora:learning_rate=[1e-3, 0.001]"], "is the same as"),
        (["lora:learning_rate=[1e-3,1e-4],lora:learning_rate=1e-4"], "is the same as"),
        (["lorra"], "unknown method 'lorra'; did you mean 'lora'"),
        (["rank=4"], "'rank=4' has no method before it; write METHOD:rank=4"),
        (["lora", "rank=4"], "'rank=4' has no method before it"),
        (["lora:"], "'lora:' has no setting after the colon"),
        (["lora:rnak=4"], "unknown setting 'rnak'; did you mean 'rank'"),
        (["lora:batch_size=4"], "unknown setting 'batch_size'"),
        (["lora:rank=0"], "setting 'rank' = 0"),
        (["lora:rank=4,rank=8"], "gives a setting twice"),
        (["lora:target_modules=[q_proj"], "does not close"),
        (["lora", "lora"], "'lora' is the same as 'lora'"),
        (["lora,lora:rank=16"], "'lora:rank=16' is the same as 'lora'"),
        (["lora:rank=4,alpha=8", "lora:alpha=8,rank=4"], "is the same as"),
    ],
)
def test_wrong_entries_are_refused(texts, message):
    with pytest.raises(GossamerError) as error:
        parse_entries(texts)
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_folders_of_entries_differ_and_are_plain_names():
    entries = parse_entries(["lora", "lora:rank=4", "lora:target_modules=[q_proj, v_proj]"])
    assert [entry.folder for entry in entries] == [
        "lora",
        "lora-rank-4",
        "lora-target_modules-q_proj-v_proj",
    ]


@pytest.mark.parametrize(
    ("texts", "budget"),
    [
        ([], ComparisonBudget()),
        (["params=500k"], ComparisonBudget(params=500_000)),
        (["params=2.5M", "steps=100"], ComparisonBudget(params=2_500_000, steps=100)),
        (["minutes=1.5"], ComparisonBudget(minutes=1.5)),
        (["steps=7,params=10"], ComparisonBudget(steps=7, params=10)),
    ],
)
def test_budgets(texts, budget):
    assert parse_budget(texts) == budget


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["100"], "'100' is not of the form"),
        (["step=100"], "unknown kind 'step'; did you mean 'steps'"),
        (["steps=0"], "must be a positive number such as 100"),
        (["steps=1.5"], "must be a positive number"),
        (["steps=1k"], "must be a plain number"),
        (["params=many"], "params=many must be a positive number such as 500k"),
        (["steps=1", "minutes=1"], "either steps or minutes"),
        (["steps=1", "steps=2"], "gives steps twice"),
    ],
)
def test_wrong_budgets_are_refused(texts, message):
    with pytest.raises(GossamerError, match="--budget") as error:
        parse_budget(texts)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"run": {"seed": 3}}, "--set seed: a comparison sets it itself; use --seeds"),
        ({"run": {"max_steps": 3}}, "use --budget steps=N"),
        ({"run": {"bach_size": 3}}, "unknown setting 'bach_size'; did you mean 'batch_size'"),
        ({"run": {"rank": 3}}, "settings of a method belong to its entry: lora:rank="),
        ({"run": {"epochs": 3}, "budget": ["steps=5"]}, "--set epochs: the budget gives"),
        ({"run": {"batch_size": 0}}, "setting 'batch_size' = 0"),
        ({"methods": ["lora", "fulll"]}, "did you mean 'full'"),
        ({"seeds": [1, 1]}, "a seed is given twice"),
        ({"score": "best"}, "'score' = 'best'"),
    ],
)
def test_wrong_settings_are_refused(more, message):
    values = {"model": "m", "data": "d", "eval": "e", "output": "o", "methods": ["lora"], **more}
    with pytest.raises(GossamerError) as error:
        CompareSettings.parse(values).check()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
