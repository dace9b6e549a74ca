"""Which blocks SMT chooses: scores, budgets, edges, and the gradients they come from."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from gossamer.errors import SettingError
from gossamer.methods.smt.blocks import Block, block_scores, cut
from gossamer.methods.smt.budget import BlockBudget, count_weights
from gossamer.methods.smt.select import choose, select_blocks, target_layers
from gossamer.methods.smt.settings import SmtSettings
from gossamer.methods.smt.statistics import GradientSums

SIZE = 8


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def some_batches(count=3, rows=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids = torch.randint(5, 250, (rows, 12), generator=generator)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def settings(**values):
    return SmtSettings.parse({"block_size": SIZE, "attention_ratio": 0.02, **values})


def pick(sums, count, **values):
    """The `count` best blocks of one part."""
    budget = BlockBudget(SIZE, {"attention": count * SIZE**2, "mlp": 0}, {"attention": "a budget"})
    return choose(sums, {"attention": list(sums), "mlp": []}, budget, settings(**values))


def test_blocks_cover_a_matrix_once():
    seen = torch.zeros(20, 11, dtype=torch.int)
    for i, j, h, w in cut((20, 11), 8):
        seen[i : i + h, j : j + w] += 1
    assert bool((seen == 1).all())
    assert sum(b.size for b in cut((20, 11), 8)) == 220


def test_scores_are_what_their_names_say():
    gradient = torch.randn(20, 11, generator=torch.Generator().manual_seed(0))
    blocks = [gradient[i : i + h, j : j + w] for i, j, h, w in cut((20, 11), 8)]
    expected = {
        "mean_abs": [b.mean().abs() for b in blocks],
        "abs_mean": [b.abs().mean() for b in blocks],
        "L1": [b.abs().sum() for b in blocks],
        "L2": [b.square().sum().sqrt() for b in blocks],
    }
    for name, scores in expected.items():
        assert torch.allclose(block_scores(gradient, 8, name), torch.stack(scores)), name


def test_planted_blocks_are_found():
    noise = {"a": 1e-3 * torch.randn(32, 48), "b": 1e-3 * torch.randn(16, 48)}
    planted = {"a": [Block(8, 16, 8, 8), Block(24, 40, 8, 8)], "b": [Block(0, 0, 8, 8)]}
    for path, blocks in planted.items():
        for i, j, h, w in blocks:
            noise[path][i : i + h, j : j + w] = 5.0
    for criterion in ("abs_mean", "mean_abs", "L1", "L2"):
        assert pick(noise, 3, criterion=criterion) == planted, criterion


def test_a_checkerboard_is_seen_by_abs_mean_alone():
    gradient = 1e-3 * torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
    signs = (-1.0) ** torch.arange(8)
    gradient[8:16, 16:24] = 5.0 * signs[:, None] * signs[None, :]
    checkerboard = {"a": [Block(8, 16, 8, 8)]}
    assert pick({"a": gradient}, 1, criterion="abs_mean") == checkerboard
    assert pick({"a": gradient}, 1, criterion="mean_abs") != checkerboard


def test_edges_fill_the_budget_and_never_exceed_it():
    sums = {"a": torch.rand(20, 11)}
    for count in (1, 2, 3):
        blocks = pick(sums, count)["a"]
        assert sum(b.size for b in blocks) <= count * 64
    assert sum(b.size for b in pick(sums, 4)["a"]) == 220


def test_a_quota_for_each_matrix():
    sums = {"loud": 9 * torch.ones(16, 32), "quiet": torch.ones(16, 32)}
    assert set(pick(sums, 4)) == {"loud"}
    each = pick(sums, 4, quota="per-matrix")
    assert {path: len(blocks) for path, blocks in each.items()} == {"loud": 2, "quiet": 2}


def test_parts_are_ranked_apart(tiny_model):
    model = load(tiny_model)
    chosen = select_blocks(model, some_batches(), settings(mlp_ratio=0.05))
    weights = count_weights(model)
    for part, ratio in (("self_attn", 0.02), ("mlp", 0.05)):
        budget = int(ratio * weights / 64) * 64
        size = sum(b.size for p, blocks in chosen.items() if part in p for b in blocks)
        # Edge blocks of 4 may leave a little of the budget unused.
        assert budget - 64 < size <= budget
    assert not any("o_proj" in path for path in chosen)


def test_the_sums_are_the_gradients_of_the_weights_and_nothing_else_is_touched(tiny_model):
    model, twin = load(tiny_model), load(tiny_model)
    wanted = settings(mlp_ratio=0.01)
    layers = target_layers(model, wanted)
    paths = [*layers["attention"], *layers["mlp"]]
    model.lm_head.weight.requires_grad_(False)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    before = {n: p.clone() for n, p in model.named_parameters()}
    with GradientSums(model, paths, wanted) as sums:
        for batch in some_batches():
            sums.add(batch)
            assert all(p.grad is None for p in model.parameters())
    for batch in some_batches():
        twin(**batch).loss.backward()
    for path, total in sums.reduced().items():
        assert total.dtype == torch.float32
        assert torch.allclose(total, twin.get_submodule(path).weight.grad, atol=1e-6), path
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_at_most_one_gradient_is_alive_at_a_time(tiny_model):
    model = load(tiny_model)
    wanted = settings(mlp_ratio=0.01)
    layers = target_layers(model, wanted)
    most = 0

    def count(_):
        nonlocal most
        most = max(most, sum(p.grad is not None for p in model.parameters()))

    with GradientSums(model, [*layers["attention"], *layers["mlp"]], wanted) as sums:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(count)
        sums.add(next(some_batches(1)))
    assert most <= 1


def test_gradients_of_a_4bit_base_come_from_its_outputs(tiny_model):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = load(tiny_model, quantization_config=quantized)
    twin = load(tiny_model)
    for path, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            twin.get_submodule(path).weight.data = weight.float()
    wanted = settings()
    paths = target_layers(model, wanted)["attention"]
    for one in (model, twin):
        assert count_weights(one) == count_weights(load(tiny_model))
    with GradientSums(model, paths, wanted) as sums, GradientSums(twin, paths, wanted) as exact:
        batch = next(some_batches(1))
        sums.add(batch)
        exact.add(batch)
    for path in paths:
        assert torch.allclose(sums.reduced()[path], exact.reduced()[path], atol=1e-4), path
    assert select_blocks(model, some_batches(), wanted)


@pytest.mark.slow
def test_two_ranks_choose_the_same_blocks_from_different_rows(tiny_model, tmp_path):
    import torch.multiprocessing as mp

    mp.spawn(_rank, args=(str(tiny_model), str(tmp_path)), nprocs=2)
    one, two = (torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in (0, 1))
    assert one["chosen"] == two["chosen"]
    together = [b for rank in (0, 1) for b in some_batches(2, seed=rank)]
    assert one["chosen"] == select_blocks(load(tiny_model), together, settings())
    assert one["alone"] != two["alone"]


def _rank(rank, model, folder):
    import torch.distributed as dist

    torch.set_num_threads(1)
    alone = select_blocks(load(model), some_batches(2, seed=rank), settings())
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    chosen = select_blocks(load(model), some_batches(2, seed=rank), settings())
    torch.save({"alone": alone, "chosen": chosen}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention_ratio": 0.0}, "are both 0"),
        ({"attention_modules": ["nope"]}, "'nope' matches no layer; available: down_proj"),
        ({"mlp_ratio": 0.01, "mlp_modules": ["q_proj"]}, "is in both"),
        ({"block_size": 256}, "less than one block of 256x256; lower block_size"),
        ({"quota": "per-matrix", "attention_ratio": 0.002}, "in each of 9 matrices"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny_model, values, message):
    with pytest.raises(SettingError) as raised:
        select_blocks(load(tiny_model), some_batches(), settings(**values))
    assert message in str(raised.value)
