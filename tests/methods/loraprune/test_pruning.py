"""Which groups go, that masking them is cutting them, and what the smaller model consists of."""

import copy
import json

import pytest
import torch
from method_helpers import (
    IDS,
    LABELS,
    base_model,
    context,
    disturb,
    exported,
    gradients,
    logits,
)
from prune_case import (
    CHANNELS,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    SETTINGS,
    backward,
    folder_of,
    learning,
    pruned,
)
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, set_seed

from gossamer.basemodel.load import load_model
from gossamer.basemodel.pruned import FAMILIES, widths_of
from gossamer.errors import SettingError
from gossamer.methods.lora import Lora
from gossamer.methods.loraprune.export import GROUPS_FILE
from gossamer.methods.loraprune.method import Loraprune

from tiny import make_tiny_model

GROUP = HEADS // KV_HEADS


def parts(method, part):
    return [g for g in method.pruner.groups if g.part == part]


def test_with_all_groups_kept_it_is_plain_lora():
    _, model, where = learning()
    set_seed(0)
    plain = Lora.from_values({"rank": 4, "alpha": 6}).prepare(
        base_model(where.base_folder), context(where.base_folder)
    )
    plain.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(plain))
    ours, theirs = gradients(model), gradients(plain)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_gone_stays_gone_where_a_new_schedule_begins():
    method, model, _ = pruned()
    before = {
        key: mask.kept.clone() for key, mask in method.pruner.masks.items() if mask.kept is not None
    }
    backward(model)
    method.pruner.score()
    method.pruner.prune({"heads": 0.1, "mlp": 0.05})
    assert before
    assert all(torch.equal(method.pruner.masks[key].kept, kept) for key, kept in before.items())


def test_importance_is_the_sum_over_a_group_of_the_papers_estimate():
    """By autograd's own definition: G^ of each matrix from dense gradients of B and A."""
    method, model, _ = learning(dtype=torch.float64)
    backward(model)
    pruner = method.pruner
    pruner.score()

    def squares(layer):
        a, b = (getattr(layer, f"lora_{x}")["default"].weight for x in "AB")
        scale = layer.scaling["default"]
        grad = b.grad / scale @ a + scale * b @ a.grad - b.grad / scale @ a.grad
        weight = layer.get_base_layer().weight + scale * b @ a
        return (grad * weight).square()

    attention = model.get_base_model().model.layers[0].self_attn
    for head in range(KV_HEADS):
        queries = slice(head * GROUP * HEAD_DIM, (head + 1) * GROUP * HEAD_DIM)
        keys = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        expected = (
            squares(attention.q_proj)[queries].sum()
            + squares(attention.k_proj)[keys].sum()
            + squares(attention.v_proj)[keys].sum()
            + squares(attention.o_proj)[:, queries].sum()
        )
        # The running mean of a first value, which began at zero.
        got = pruner.scores["heads.0"][head] / (1 - 0.9)
        assert torch.isclose(got, expected, rtol=1e-12)
    mlp = model.get_base_model().model.layers[0].mlp
    expected = (
        squares(mlp.gate_proj).sum(1) + squares(mlp.up_proj).sum(1) + squares(mlp.down_proj).sum(0)
    )
    assert torch.allclose(pruner.scores["mlp.0"] / (1 - 0.9), expected, rtol=1e-12)


def test_matrices_brought_to_length_one_count_alike():
    method, model, _ = learning(normalize=True, importance="absolute", smoothing=0.0)
    backward(model)
    method.pruner.score()
    # Four (or three) vectors of length 1 without a negative entry.
    for group in method.pruner.pruned:
        length = method.pruner.scores[group.key].norm()
        matrices = len(group.widths) + 1
        assert matrices**0.5 - 1e-4 <= length <= matrices + 1e-4


def test_each_pruned_layer_loses_its_share_and_others_nothing():
    method, _, _ = pruned(keep_layers=[1])
    for group in method.pruner.groups:
        count, share = (KV_HEADS, 0.5) if group.part == "heads" else (CHANNELS, 0.3)
        kept = method.pruner.kept(group)
        assert len(kept) == (count if group.layer == 1 else count - int(share * count))
        assert kept.tolist() == sorted(kept.tolist())


def test_the_least_important_go_and_stay_away():
    method, _, _ = pruned()
    pruner = method.pruner
    group = parts(method, "mlp")[0]
    scores = pruner.scores[group.key]
    gone = torch.tensor([n for n in range(CHANNELS) if n not in pruner.kept(group)])
    assert scores[gone].max() < scores[pruner.kept(group)].min()
    pruner.scores[group.key] = -scores
    pruner.prune({"heads": 0.5, "mlp": 0.5})
    assert not set(gone.tolist()) & set(pruner.kept(group).tolist())
    assert len(pruner.kept(group)) == CHANNELS - 50


def test_all_layers_compete_where_the_ranking_is_global():
    method, _, _ = learning(ranking="global", keep_layers=[], mlp_ratio=0.6)
    pruner = method.pruner
    for group in pruner.pruned:
        # The lower a layer, the less important its channels.
        pruner.scores[group.key] = torch.arange(group.count) + 1000.0 * group.layer
    pruner.prune({"heads": 0.5, "mlp": 0.6})
    assert [len(pruner.kept(g)) for g in parts(method, "mlp")] == [1, 19, 100]
    assert [len(pruner.kept(g)) for g in parts(method, "heads")] == [1, 1, 4]


def test_a_global_share_need_only_be_enough_for_one_of_all():
    with pytest.raises(
        SettingError, match=r"head_ratio 0\.2 removes none of the 4 key/value heads"
    ):
        learning(keep_layers=[], head_ratio=0.2)
    method, _, _ = pruned(ranking="global", keep_layers=[], head_ratio=0.2)
    left = [len(method.pruner.kept(g)) for g in parts(method, "heads")]
    assert sum(left) == LAYERS * KV_HEADS - 2


def test_a_global_share_that_leaves_some_layer_nothing_is_refused_at_the_start():
    # 10 of 12 heads, of which each of three layers keeps one.
    reason = "removes 10 of the 12 key/value heads of the 3 pruned layers.*at most 0.75, or ranking"
    with pytest.raises(SettingError, match=reason):
        learning(ranking="global", keep_layers=[], head_ratio=0.9)
    for settings in ({"head_ratio": 0.75, "ranking": "global"}, {"head_ratio": 0.9}):
        method, _, _ = pruned(keep_layers=[], **settings)
        assert [len(method.pruner.kept(g)) for g in parts(method, "heads")] == [1, 1, 1]


def test_a_layer_keeps_its_only_head(tmp_path):
    folder = make_tiny_model(tmp_path / "one", num_key_value_heads=1)
    method = Loraprune.from_values({"head_ratio": 0.9})
    with pytest.raises(SettingError, match=r"head_ratio 0\.9: layer 0 has one .*; give 0"):
        method.prepare(base_model(folder), context(folder))


def test_chance_depends_on_the_seed_alone_and_magnitude_on_the_weights():
    first, second = (pruned(criterion="random")[0] for _ in range(2))
    other = learning(criterion="random")[0]
    other.pruner.seed = 7
    other.pruner.prune({"heads": 0.5, "mlp": 0.3})
    group = parts(first, "mlp")[0]
    kept = [m.pruner.kept(parts(m, "mlp")[0]).tolist() for m in (first, second, other)]
    assert kept[0] == kept[1] != kept[2]
    method, model, _ = pruned(criterion="magnitude")
    mlp = copy.deepcopy(model).merge_and_unload().model.layers[0].mlp
    size = (
        mlp.gate_proj.weight.square().sum(1)
        + mlp.up_proj.weight.square().sum(1)
        + mlp.down_proj.weight.square().sum(0)
    )
    expected = size.argsort(descending=True)[: CHANNELS - 30].sort().values
    assert method.pruner.kept(group).tolist() == expected.tolist()


def test_hiding_what_a_layer_reads_is_masking_the_outputs_in_front():
    """Values and gradients, in float64, against the paper's form: outputs times 0 or 1."""
    method, model, _ = pruned(dtype=torch.float64)
    backward(model)
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    shown = model(input_ids=IDS, labels=LABELS).loss
    masks = {g.key: method.pruner.masks[g.key].kept for g in method.pruner.pruned}
    for group in method.pruner.pruned:
        method.pruner.masks[group.key].set(torch.ones(group.count))
        for name, width in group.widths.items():
            lines = masks[group.key].repeat_interleave(width).double()
            getattr(group.module, name).register_forward_hook(lambda m, i, o, x=lines: o * x)
    assert torch.isclose(model(input_ids=IDS, labels=LABELS).loss, shown, rtol=1e-12)
    backward(model)
    theirs = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(torch.allclose(ours[n], theirs[n], rtol=1e-9, atol=1e-12) for n in ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_masked_model_is_the_cut_one(family, tmp_path):
    method, model, where = pruned(family)
    expected = logits(model)
    folder = exported(method, model, where, tmp_path)
    smaller = load_model(folder, dtype=torch.float32)
    assert (logits(smaller) - expected).abs().max() < 1e-5
    widths = widths_of(smaller.config)
    assert smaller.config.model_type == f"pruned_{family}"
    assert widths.kv_heads == (2, 2, 4)
    assert widths.channels == (70, 70, 100)
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(again), logits(smaller))
    # The model in training is as it was.
    assert torch.equal(logits(model), expected)


def test_layers_cut_alike_need_nothing_of_ours(tmp_path):
    method, model, where = pruned(keep_layers=[])
    folder = exported(method, model, where, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["head_dim"]) == ("llama", HEAD_DIM)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert config["intermediate_size"] == 70
    assert (logits(load_model(folder, dtype=torch.float32)) - logits(model)).abs().max() < 1e-5


def test_kept_heads_stay_together_in_all_four_matrices(tmp_path):
    method, model, where = pruned()
    folder = exported(method, model, where, tmp_path)
    kept = json.loads((folder / GROUPS_FILE).read_text())["heads.0"]
    assert len(kept) == 2
    small = load_model(folder, dtype=torch.float32).model.layers[0].self_attn
    whole = model.merge_and_unload().model.layers[0].self_attn

    def heads(weight, per_group):
        return weight.unflatten(0, (-1, per_group * HEAD_DIM))

    for name, per_group in (("q_proj", GROUP), ("k_proj", 1), ("v_proj", 1)):
        ours = heads(getattr(small, name).weight, per_group)
        assert torch.allclose(ours, heads(getattr(whole, name).weight, per_group)[kept], atol=1e-6)
    ours = heads(small.o_proj.weight.T, GROUP)
    assert torch.allclose(ours, heads(whole.o_proj.weight.T, GROUP)[kept], atol=1e-6)


def test_masks_and_scores_come_back_from_a_checkpoint(tmp_path):
    method, model, where = pruned()
    method.save(model, tmp_path, where)
    other, again, _ = learning()
    other.restore(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    scores, theirs = method.pruner.scores, other.pruner.scores
    assert scores.keys() == theirs.keys()
    assert all(torch.equal(scores[key], theirs[key]) for key in scores)


def test_a_smaller_model_is_pruned_again(tmp_path):
    method, model, where = pruned()
    folder = exported(method, model, where, tmp_path)
    smaller = load_model(folder, dtype=torch.float32)
    second = type(method).from_values({"rank": 2, "mlp_ratio": 0.1, "keep_layers": [0]})
    model = second.prepare(smaller, context(folder))
    backward(model)
    second.pruner.score()
    second.pruner.prune({"heads": 0.0, "mlp": 0.1})
    again = exported(second, model, context(folder), tmp_path)
    assert widths_of(AutoConfig.from_pretrained(again)).channels == (70, 63, 90)
    assert widths_of(AutoConfig.from_pretrained(again)).kv_heads == (2, 2, 4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_in_few_bits_leaves_whole_weights(bits, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    base = load_model(folder_of("llama"), dtype=torch.float32, quantization_config=config)
    method, where = Loraprune.from_values(SETTINGS), context(folder_of("llama"))
    model = method.prepare(base, where)
    disturb(model)
    backward(model)
    method.pruner.score()
    method.pruner.prune({"heads": 0.5, "mlp": 0.3})
    folder = exported(method, model, where, tmp_path)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    smaller = load_model(folder, dtype=torch.float32)
    assert widths_of(smaller.config).channels == (70, 70, 100)
    assert (logits(smaller) - logits(model)).abs().max() < 1e-3
