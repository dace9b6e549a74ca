"""Each method under sparse compute: exactly the masked products, or refused by its name."""

import pytest
import torch
from sparse_case import batch, gradients, masked_dense, recorded, tiny_base
from test_sparse_products import assert_same

from gossamer.errors import GossamerError
from gossamer.methods import MethodContext, find, names
from gossamer.sparsity import SparsityPlan, sparsify

SHARES = {"mlp": {"0-2": 0.6}, "qk": {"1-2": 0.5}, "vo": {"0": 0.3, "2": 0.5}}
ALL_CHANNELS = 1e-17
"""A share so small that every layer is sliced and every channel kept."""
BIASED = {"model_type": "qwen2"}

SLICED = {
    "adalora": {},
    "bitfit": BIASED,
    "direft": {},
    "dora": {},
    "federa": {},
    "houlsby": {},
    "ia3": {},
    "lamda": {},
    "lamda_pp": {},
    "ln_tuning": {},
    "lora": {},
    "loraprune": {},
    "loreft": {},
    "lorta": {},
    "nodireft": {},
    "pfeiffer": {},
    "pissa": {},
    "rslora": {},
    "sherl": {"late_layers": 1},
    "slora": {},
    "slora, low-rank": {"stage": 1},
    "slora, residual kept": {"stage": 1, "keep_residual": True},
    "sparse_lora": {},
    "velora": {},
}
"""By method, and what else there is to it: how the model is made that learns."""
REFUSED = {
    "full": ({}, "the base weights of .* learn"),
    "meft": ({}, "computes each layer a second time, from states that are only nearly the same"),
    "p_tuning": ({}, "learnt tokens in front of the text"),
    "prefix_tuning": ({}, "learnt tokens in front of the text"),
    "prompt_tuning": ({}, "learnt tokens in front of the text"),
    "shira": ({}, r"peft\.tuners\.shira\S+ at \S+ does not compute its frozen part"),
    "smt": ({"block_size": 4}, r"gossamer\.methods\.smt\S+ at \S+ does not compute its frozen"),
    "sparsegrad": ({}, "is a SparseGradLinear; only plain linear layers"),
}
NEEDS_BITSANDBYTES = {"qlora"}
REFUSED_BY_RUNS_ALONE = {"loraprune"}
"""Those whose layers can be sliced, but whose runs change what a plan was made for."""


def some_batches(count):
    return (batch(seed=seed) for seed in range(count))


def learning(case):
    """The model of `case` as if it had learnt something, in float64."""
    options = dict(SLICED[case] if case in SLICED else REFUSED[case][0])
    family, stage = options.pop("model_type", "llama"), options.pop("stage", 0)
    method = find(case.split(",")[0]).from_values(options)
    context = MethodContext(
        model_name="tiny",
        base_folder=None,
        base_fingerprint="f",
        dtype="float32",
        device="cpu",
        seed=0,
        total_steps=20,
        probe_batches=some_batches,
    )
    torch.manual_seed(0)
    model = method.prepare(tiny_base(family, dtype=torch.float32), context)
    disturb(model)
    if stage:
        model = method.enter_stage(model, stage, context)
        disturb(model)
    return model.double().train()


def disturb(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.rand_like(parameter)


def test_every_method_is_in_one_of_the_tables():
    sliced = {case.split(",")[0] for case in SLICED}
    assert sliced | set(REFUSED) | NEEDS_BITSANDBYTES == set(names())
    refused = {name for name in names() if find(name).dense_because is not None}
    assert set(REFUSED) | REFUSED_BY_RUNS_ALONE == refused
    assert not sliced & set(REFUSED)


@pytest.mark.parametrize("case", SLICED)
def test_slices_that_keep_all_channels_are_the_dense_model(case, monkeypatch):
    model, inputs = learning(case), batch()
    dense = gradients(model, inputs)
    shares = {part: dict.fromkeys(layers, ALL_CHANNELS) for part, layers in SHARES.items()}
    with recorded(monkeypatch) as chosen, sparsify(model, SparsityPlan(**shares, start=0)):
        assert_same(gradients(model, inputs), dense, 1e-11)
    assert len(chosen) == 6


@pytest.mark.parametrize("case", SLICED)
def test_learns_with_the_gradients_of_masked_products(case, monkeypatch):
    model, inputs = learning(case), batch()
    with (
        recorded(monkeypatch) as chosen,
        sparsify(model, SparsityPlan(**SHARES, start=0)) as handle,
    ):
        sparse = gradients(model, inputs)
        rows = handle._pass.split.sparse
    assert len(chosen) == 6
    tokens = torch.zeros(inputs["labels"].numel(), dtype=torch.bool)
    tokens[rows] = True
    with masked_dense(model, chosen, tokens.view(inputs["labels"].shape)):
        assert_same(gradients(model, inputs), sparse, 1e-11)
    assert not torch.allclose(gradients(model, inputs)[1], sparse[1])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_sliced_is_refused_by_the_library_too(name):
    model = learning(name)
    with pytest.raises(GossamerError, match=REFUSED[name][1]):  # noqa: SIM117
        with sparsify(model, SparsityPlan(**SHARES, start=0)):
            gradients(model, batch())
