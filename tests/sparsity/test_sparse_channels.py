"""Which channels are kept: guesses against truth, partners in grouped heads, files of guesses."""

import pytest
import torch
from sparse_case import batch, gradients, recorded, tiny_base, with_lora
from torch import nn

from gossamer.sparsity import SparsityPlan, sparsify
from gossamer.sparsity.family import HeadShape, key_scores, partners, top_channels
from gossamer.sparsity.frozen_linear import FrozenLinear
from gossamer.sparsity.predictor import PredictorFactors, factorise, output_norms

PLAN = SparsityPlan(mlp={"0-2": 0.5}, qk={"0-2": 0.5}, vo={"0-2": 0.5}, start=0, criterion="svd")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("padding", ["left", "none"])
def test_full_rank_is_the_oracle(family, padding, monkeypatch):
    model, inputs = with_lora(tiny_base(family)), batch(padding=padding)
    sets = []
    for criterion in ("oracle", "svd"):
        plan = PLAN.updated({"criterion": criterion, "rank": 1000, "mean_tokens": False})
        with recorded(monkeypatch) as found, sparsify(model, plan):
            gradients(model, inputs)
        sets.append(found)
    oracle, guess = sets
    assert oracle.keys() == guess.keys()
    assert len(oracle) == 6
    for path, indices in oracle.items():
        for name, index in indices.items():
            assert torch.equal(index, guess[path][name]), (path, name)


@pytest.mark.parametrize("rank", [1, 8, 30])
@pytest.mark.parametrize("shape", [(60, 30), (30, 60)])
def test_factors_are_those_of_the_svd(rank, shape):
    linear = nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
    factors = factorise(FrozenLinear(linear), rank, torch.float64)
    u, s, v = torch.linalg.svd(linear.weight.detach().t())
    expected = u[:, :rank] * s[:rank] @ v[:rank]
    torch.testing.assert_close(factors.down @ factors.up, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        factors.down.norm(dim=0), factors.up.norm(dim=1), rtol=1e-4, atol=1e-5
    )


def test_output_norms_are_those_of_the_outputs():
    x = torch.randn(50, 12, dtype=torch.float64)
    factors = PredictorFactors(
        torch.randn(12, 3).double(), torch.randn(3, 20).double(), torch.randn(20)
    )
    expected = (x @ factors.down @ factors.up + factors.bias.double()).norm(dim=0)
    torch.testing.assert_close(output_norms(x, factors).double(), expected, rtol=1e-5, atol=1e-5)


def test_partners_of_grouped_heads_are_the_heads_that_share_keys():
    heads = HeadShape(query_heads=8, key_heads=2, head_dim=16)
    planted = torch.tensor([3, 7, 18, 31])
    queries, keys = torch.ones(128), torch.ones(32)
    expected = sorted((int(c) // 16 * 4 + j) * 16 + int(c) % 16 for c in planted for j in range(4))
    queries[expected] = 5.0
    keys[planted] = 3.0
    chosen = top_channels(key_scores(queries, keys, heads, released=False), 1 - 4 / 32)
    assert chosen.tolist() == planted.tolist()
    assert partners(chosen, heads).tolist() == expected
    assert len(expected) == heads.group * len(planted)
    # The published mapping: channels that do not belong together.
    released = partners(chosen, heads, released=True)
    assert released.tolist() == [c * 4 + j for c in planted.tolist() for j in range(4)]
    scores = key_scores(queries, keys, heads, released=True)
    torch.testing.assert_close(scores, queries.view(4, 32).mean(0) * keys)


def test_partners_of_grouped_heads_are_kept_in_a_model(monkeypatch):
    model = with_lora(tiny_base())
    with recorded(monkeypatch) as found, sparsify(model, PLAN):
        gradients(model, batch())
    for path, index in found.items():
        if path.endswith("self_attn"):
            heads = HeadShape(query_heads=4, key_heads=2, head_dim=16)
            assert torch.equal(index["q_proj"], partners(index["k_proj"], heads))
            assert torch.equal(index["o_proj"], partners(index["v_proj"], heads))
            assert len(index["v_proj"]) == 16
    with recorded(monkeypatch) as found, sparsify(model, PLAN.updated({"released_mapping": True})):
        gradients(model, batch())
    for path, index in found.items():
        if path.endswith("self_attn"):
            assert torch.equal(index["o_proj"], index["v_proj"])


def test_size_of_the_guesses_of_llama3_8b():
    def size(inputs, outputs):
        return 2 * 8 * (inputs + outputs)

    layer = 2 * size(4096, 14336) + size(4096, 4096) + 2 * size(4096, 1024)
    assert 32 * layer / 1e6 == pytest.approx(28.3, abs=0.05)
    model = tiny_base(dtype=torch.bfloat16)
    with sparsify(model, PLAN) as handle:
        tiny = 2 * size(48, 100) + size(48, 64) + 2 * size(48, 32)
        assert handle.predictor_bytes == 3 * tiny


def test_chance_is_repeated_for_the_same_step_only(monkeypatch):
    model, inputs = with_lora(tiny_base()), batch()
    sets = []
    with sparsify(model, PLAN.updated({"criterion": "random"})) as handle:
        for step in (3, 3, 4):
            handle.set_step(step)
            with recorded(monkeypatch) as found:
                gradients(model, inputs)
            sets.append(torch.cat([i for group in found.values() for i in group.values()]))
    assert torch.equal(sets[0], sets[1])
    assert not torch.equal(sets[0], sets[2])


def run_with_cache(folder, notes, digest="base"):
    model = with_lora(tiny_base())
    with sparsify(model, PLAN, cache=folder, digest=digest, note=notes.append):
        return gradients(model, batch())[0]


@pytest.mark.parametrize("damage", ["cut", "changed", "not safetensors"])
def test_damaged_files_of_guesses_are_detected_and_made_anew(tmp_path, damage):
    notes = []
    expected = run_with_cache(tmp_path, notes)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "changed":
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 255]) + whole[-2:])
    else:
        path.write_bytes(b"nothing of the kind")
    assert run_with_cache(tmp_path, notes) == expected
    (note,) = notes
    assert str(path) in note
    assert "made anew" in note
    assert path.read_bytes() == whole
    assert run_with_cache(tmp_path, notes) == expected
    assert len(notes) == 1


def test_files_of_guesses_belong_to_one_base(tmp_path):
    notes = []
    run_with_cache(tmp_path, notes)
    run_with_cache(tmp_path, notes, digest="another")
    assert len(list(tmp_path.iterdir())) == 2
    model = tiny_base()
    model.model.layers[0].mlp.gate_proj.weight.data.mul_(2)
    with sparsify(with_lora(model), PLAN, cache=tmp_path, digest="base"):
        assert len(list(tmp_path.iterdir())) == 3
    assert notes == []
