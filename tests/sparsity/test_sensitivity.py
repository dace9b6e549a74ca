"""The sweep, and the plan chosen from it."""

import itertools

import pytest
import torch
from sparse_case import batch, tiny_base

from gossamer.errors import DataError, SettingError
from gossamer.sparsity import SparsityPlan, sparsify
from gossamer.sparsity.flops import work_shape
from gossamer.sparsity.plot import draw_plan
from gossamer.sparsity.search.halfway import JointLoss, sparse_loss
from gossamer.sparsity.search.knapsack import choose_plan
from gossamer.sparsity.search.sweep import Increase, Sensitivity, sweep
from gossamer.sparsity.search.work import RunWork
from gossamer.sparsity.tally import Tally

OPTIONS = SparsityPlan(start=0)


SOME_LAYERS_LOOK_BACK_FOUR = {
    "use_sliding_window": True,
    "sliding_window": 4,
    "max_window_layers": 1,
}


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", {}),
        ("smollm3", {"no_rope_layers": [1, 0, 1]}),
        ("qwen3", SOME_LAYERS_LOOK_BACK_FOUR),
    ],
    ids=["llama", "smollm3", "qwen3"],
)
def test_a_sweep_measures_what_each_layer_alone_does_to_the_loss(family, shape):
    model, batches = tiny_base(family, **shape), [batch(), batch(seed=1, padding="left")]
    joint = JointLoss(model, batches)
    found = sweep(joint, mlp_shares=[0.5], attention_shares=[0.5], options=OPTIONS)
    assert [(i.layer, i.group) for i in found.increases] == [
        (layer, group) for layer in range(3) for group in ("mlp", "attention")
    ]
    model.train()
    for increase in found.increases:
        shares = {str(increase.layer): 0.5}
        kinds = ["mlp"] if increase.group == "mlp" else ["qk", "vo"]
        plan = OPTIONS.updated(dict.fromkeys(kinds, shares))
        # The same through a whole training pass of the model.
        with sparsify(model, plan):
            losses = [model(**inputs).loss.item() for inputs in batches]
        mean = sum(losses) / 2
        assert found.dense_loss + increase.loss == pytest.approx(mean, rel=1e-6)
    assert model.training


def test_rows_without_labels_are_refused():
    inputs = batch()
    inputs["labels"].fill_(-100)
    with pytest.raises(DataError, match="no token of the rows is learnt"):
        JointLoss(tiny_base(), [inputs])


def made_up(model):
    """Layer 1 minds nothing, layer 0 most; MLPs mind more than attention."""
    costs = {0: 1.0, 1: 0.0, 2: 0.1}
    increases = [
        Increase(layer, group, share, costs[layer] * share * (2 if group == "mlp" else 1))
        for layer in range(3)
        for group in ("mlp", "attention")
        for share in (0.5, 0.9)
    ]
    return Sensitivity(layers=3, dense_loss=2.0, increases=increases)


def all_groups(found):
    groups = {}
    for increase in found.increases:
        groups.setdefault((increase.layer, increase.group), []).append(increase)
    return list(groups.values())


@pytest.mark.parametrize("target", [0.8, 0.6, 0.5, 0.44])
def test_the_chosen_plan_costs_least_of_all_that_reach_the_target(target):
    model = tiny_base()
    shape, found = work_shape(model, adapter_weights=0), made_up(model)
    work = RunWork(shape, Tally(1000, 900, 10, 100 * 1000), start=0)
    plan = choose_plan(found, work, OPTIONS, target=target)
    assert work.kept(plan) <= target
    dense = shape.dense_work(100)
    everything = [c[-1].shares for c in all_groups(found)]
    choosing = 0.01 * sum(map(shape.scoring_work, everything)) / dense
    best = min(
        sum(choice.loss for choice in choices if choice)
        for choices in itertools.product(*([None, *group] for group in all_groups(found)))
        if 1 + choosing - 0.9 * sum(shape.dropped_work(c.shares) for c in choices if c) / dense
        <= target
    )
    cost = {(i.layer, i.group, i.share): i.loss for i in found.increases}
    loss = sum(
        cost.get((layer, group, share), 0.0)
        for layer, shares in enumerate(plan.all_shares(3))
        for group, share in (("mlp", shares.mlp), ("attention", shares.qk))
    )
    assert loss == pytest.approx(best, abs=1e-6)
    assert plan.num_layers == 3


def test_a_target_out_of_reach_says_what_can_be_had():
    model = tiny_base()
    work = RunWork(work_shape(model, adapter_weights=0), Tally(100, 50, 0, 10_000), start=0)
    with pytest.raises(SettingError, match=r"target 0.1 cannot be reached: with 50% of the tokens"):
        choose_plan(made_up(model), work, OPTIONS, target=0.1)


def test_a_plan_has_a_picture(tmp_path):
    model = tiny_base(dtype=torch.float32)
    plan = SparsityPlan(name="cost in $", mlp={"1-2": 0.9}, qk={"2": 0.5}, vo={"2": 0.25})
    draw_plan(plan, 3, tmp_path / "plan.png", sensitivity=made_up(model))
    draw_plan(plan, 3, tmp_path / "alone.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert sparse_loss(model, [batch()], plan) > 0
