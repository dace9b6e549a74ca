"""SLoRA: the sparse stage, the step to LoRA, and the result."""

import json

import pytest
import torch
from entry_case import (
    IDS,
    base_weights,
    build,
    context,
    disturb,
    layers_of,
    learning,
    logits,
)
from peft import PeftModel
from safetensors.torch import load_file
from sparse_updates import dense
from torch.nn.functional import linear
from traffic import (
    SEED_BYTES,
    bitmap_bytes,
    low_rank_round_bytes,
    sparse_round_bytes,
    total_bytes,
)

from gossamer import methods
from gossamer.basemodel.load import load_model
from gossamer.errors import SettingError
from gossamer.methods.common.sparse_delta.mask import num_entries, random_entries
from gossamer.methods.slora.layer import SloraLinear
from gossamer.methods.slora.method import updates
from gossamer.training.plan import plan_stages
from gossamer.training.settings import RunSettings

from tiny import make_tiny_model, module_shapes

DENSE = {"density": 0.2, "rank": 4}


class TestSparseStage:
    """Stage 1."""

    def test_it_starts_as_the_base_and_only_entries_learn(self, tiny_model):
        _, model, _ = build("slora", tiny_model, **DENSE)
        assert torch.equal(logits(model), logits(load_model(tiny_model, dtype=torch.float32)))
        counts = sum(p.numel() for p in learning(model).values())
        assert counts == sum(num_entries(s, 0.2) for s in module_shapes(tiny_model).values())
        assert all("slora_values" in name for name in learning(model))

    def test_nothing_off_the_mask_moves(self, tiny_model):
        """Momentum and decay on, five steps; then merged."""
        _, model, _ = build("slora", tiny_model, **DENSE)
        optimizer = torch.optim.AdamW(learning(model).values(), lr=1e-2, weight_decay=0.1)
        for _ in range(5):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert all(p.grad is None for n, p in model.named_parameters() if "slora" not in n)
        states = [tensor.numel() for s in optimizer.state.values() for tensor in s.values()]
        counts = sum(p.numel() for p in learning(model).values())
        assert sum(states) - len(learning(model)) == 2 * counts
        changed = updates(model)
        before = base_weights(tiny_model)
        merged = dict(model.merge_and_unload().state_dict())
        for name, weight in before.items():
            path = name.removesuffix(".weight")
            if path not in changed:
                assert torch.equal(merged[name], weight), name
                continue
            index = changed[path].index.long()
            on_mask = torch.zeros(weight.shape, dtype=torch.bool)
            on_mask[index[0], index[1]] = True
            assert torch.equal(merged[name][~on_mask], weight[~on_mask])
            assert (merged[name][on_mask] != weight[on_mask]).float().mean() > 0.99

    def test_with_every_entry_it_is_fine_tuning_of_those_matrices(self, tiny_model):
        _, model, _ = build("slora", tiny_model, density=1.0, dtype=torch.float64)
        model(input_ids=IDS, labels=IDS).loss.backward()
        plain = load_model(tiny_model, dtype=torch.float64)
        plain(input_ids=IDS, labels=IDS).loss.backward()
        weights = dict(plain.named_parameters())
        for path, layer in layers_of(model, SloraLinear).items():
            gradient = layer.slora_values["default"].grad.view(layer.shape)
            expected = weights[f"{path}.weight"].grad
            # The model's norms and its loss are in float32 whatever its weights are.
            assert (gradient - expected).abs().max() <= 1e-6 * expected.abs().max(), path

    def test_every_client_draws_the_mask_of_the_seed(self, tiny_model):
        masks = []
        for where in (context(tiny_model), context(tiny_model, dtype="bfloat16")):
            _, model, _ = build("slora", tiny_model, where=where)
            masks.append({p: u.index for p, u in updates(model).items()})
        assert all(torch.equal(masks[0][path], masks[1][path]) for path in masks[0])
        for path, index in masks[0].items():
            shape = module_shapes(tiny_model)[path]
            assert torch.equal(index, random_entries(0, path, shape, 0.01))

    def test_it_is_saved_loaded_and_restored(self, tiny_model, tmp_path):
        method, model, where = build("slora", tiny_model, **DENSE)
        disturb(model)
        method.save(model, tmp_path, where)
        again = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.float32), tmp_path)
        assert torch.equal(logits(model), logits(again))
        _, other, _ = build("slora", tiny_model, **DENSE)
        method.restore(other, tmp_path)
        assert torch.equal(logits(model), logits(other))

    def test_quantised_weights_are_refused(self, tiny_model):
        pytest.importorskip("bitsandbytes")
        where = context(tiny_model)
        config = methods.find("qlora").from_values({}).quantization(where)
        base = load_model(tiny_model, dtype=torch.float32, quantization_config=config)
        method = methods.find("slora").from_values({})
        with pytest.raises(SettingError, match=r"cannot train the entries of .*: its weight is qu"):
            method.prepare(base, where)


class TestLowRankStage:
    """Stage 2."""

    @pytest.fixture
    def staged(self, tiny_model):
        def enter(**settings):
            method, model, where = build("slora", tiny_model, **{**DENSE, **settings})
            disturb(model, size=0.1)
            before, learnt = logits(model), updates(model)
            return method, method.enter_stage(model, 1, where), before, learnt

        return enter

    def test_it_is_plain_lora_on_the_untouched_base(self, staged, tiny_model, tmp_path):
        method, model, _, learnt = staged()
        weights = model.state_dict()
        for name, value in base_weights(tiny_model).items():
            path = name.removesuffix(".weight")
            inner = f"{path}.base_layer.weight" if path in learnt else name
            assert torch.equal(weights[f"base_model.model.{inner}"], value)
        assert all("lora_" in name for name in learning(model))
        for path, update in learnt.items():
            layer = model.get_submodule(f"base_model.model.{path}")
            delta = dense(update.index, update.values.double(), update.shape)
            u, s, v = torch.linalg.svd(delta)
            best = (u[:, :4] * s[:4]) @ v[:4]
            assert torch.allclose(layer.get_delta_weight("default").double(), best, atol=1e-5)
        method.export(model, tmp_path, context(tiny_model))
        assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
        again = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.float32), tmp_path)
        assert torch.equal(logits(model), logits(again))

    def test_at_full_rank_it_starts_where_the_sparse_stage_ended(self, staged):
        _, model, before, _ = staged(rank=48)
        assert torch.allclose(logits(model), before, atol=1e-4)

    def test_with_the_residual_kept_nothing_is_lost(self, staged):
        _, lossy, before, _ = staged()
        assert not torch.allclose(logits(lossy), before, atol=1e-2)
        _, model, before, _ = staged(keep_residual=True)
        assert torch.allclose(logits(model), before, atol=1e-5)
        assert {n.split(".")[-2] for n in learning(model)} == {"slora_A", "slora_B"}

    def test_both_factors_learn_from_the_first_step(self, staged):
        for keep in (False, True):
            _, model, _, _ = staged(keep_residual=keep)
            model(input_ids=IDS, labels=IDS).loss.backward()
            assert all(p.grad.abs().sum() > 0 for p in learning(model).values())

    def test_the_split_changes_no_output(self, staged):
        for keep in (False, True):
            outs = [
                logits(staged(keep_residual=keep, factor_split=split)[1])
                for split in ("lora", "balanced")
            ]
            assert torch.allclose(outs[0], outs[1], atol=1e-5)

    def test_the_retained_energy_is_reported(self, staged):
        method, _, _, learnt = staged()
        report = method.stage_report(1)
        shares = report["retained_energy_by_matrix"]
        assert shares.keys() == learnt.keys()
        assert report["retained_energy"] == pytest.approx(sum(shares.values()) / len(shares))
        assert 0.05 < report["retained_energy"] < 0.9
        assert method.stage_report(0) == {}

    def test_a_kept_residual_is_an_adapter_of_the_base_that_merges(
        self, staged, tiny_model, tmp_path
    ):
        method, model, _, _ = staged(keep_residual=True)
        assert (method.kind, method.tuner_module) == ("other", "gossamer.methods.slora.model")
        disturb(model)
        out = logits(model)
        with model.disable_adapter():
            assert torch.equal(logits(model), logits(load_model(tiny_model, dtype=torch.float32)))
        method.export(model, tmp_path, context(tiny_model))
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert config["peft_type"] == "GOSSAMER_SLORA"
        again = PeftModel.from_pretrained(load_model(tiny_model, dtype=torch.float32), tmp_path)
        assert torch.equal(logits(again), out)
        assert torch.allclose(logits(again.merge_and_unload()), out, atol=1e-4)

    def test_a_matrix_that_learnt_nothing_begins_as_lora_does(self, tiny_model):
        method, model, where = build("slora", tiny_model, **DENSE)
        model = method.enter_stage(model, 1, where)
        base = logits(load_model(tiny_model, dtype=torch.float32))
        assert torch.equal(logits(model), base)
        for name, parameter in learning(model).items():
            assert (parameter.abs().sum() > 0) == ("lora_A" in name)

    def test_settings_that_contradict_each_other_are_refused(self):
        with pytest.raises(SettingError, match="rank_pattern cannot be combined with keep_residua"):
            methods.find("slora").from_values(
                {"keep_residual": True, "rank_pattern": {"q_proj": 2}}
            )
        for values in ({"density": 0}, {"density": 1.5}, {"sparse_share": 1}):
            with pytest.raises(SettingError):
                methods.find("slora").from_values(values)


class TestStages:
    """How the steps are shared out."""

    @pytest.mark.parametrize(
        ("total", "share", "steps"),
        [(100, 0.2, [20, 80]), (10, 0.99, [9, 1]), (1, 0.5, [1]), (2, 0.2, [2]), (50, 0, [50])],
    )
    def test_shares(self, total, share, steps, tiny_model):
        method = methods.find("slora").from_values({"sparse_share": share})
        made = method.stages(context(tiny_model, total_steps=total))
        assert [stage.steps for stage in made] == steps

    @pytest.mark.parametrize(
        ("settings", "sparse"), [({}, 5e-3), ({"sparse_learning_rate": 2e-4}, 2e-4)]
    )
    def test_the_sparse_stage_has_five_times_the_rate_of_the_run(
        self, settings, sparse, tiny_model
    ):
        method = methods.find("slora").from_values(settings)
        run = RunSettings(model="m", data="d", output="o", learning_rate=1e-3)
        stages = plan_stages(method.stages(context(tiny_model, total_steps=50)), run, total=50)
        assert [stage.learning_rate for stage in stages] == [sparse, 1e-3]

    def test_without_a_sparse_stage_it_is_plain_lora(self, tiny_model):
        torch.manual_seed(0)
        _, model, _ = build("slora", tiny_model, sparse_share=0, rank=4)
        torch.manual_seed(0)
        _, plain, _ = build("lora", tiny_model, rank=4)
        mine, theirs = learning(model), learning(plain)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


class TestLearning:
    """How fast the second stage learns."""

    def descent(self, model, steps=20):
        """Losses on the same rows, before each of the steps and after the last."""
        optimizer = torch.optim.AdamW(learning(model).values(), lr=1e-3, weight_decay=0.0)
        losses = []
        for _ in range(steps + 1):
            loss = model(input_ids=IDS, labels=IDS).loss
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return losses

    def primed(self, tiny_model, **settings):
        """A model after the stage change, which five sparse steps precede."""
        torch.manual_seed(0)
        method, model, where = build("slora", tiny_model, rank=4, **settings)
        optimizer = torch.optim.AdamW(learning(model).values(), lr=1e-3, weight_decay=0.0)
        for _ in range(5):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return method.enter_stage(model, 1, where)

    def test_primed_steps_gain_as_much_as_those_of_lora(self, tiny_model):
        torch.manual_seed(0)
        _, plain, _ = build("lora", tiny_model, rank=4)
        lora = self.descent(plain)
        slora = self.descent(self.primed(tiny_model))
        balanced = self.descent(self.primed(tiny_model, factor_split="balanced"))
        gain = lora[0] - lora[-1]
        assert slora[0] < lora[0]
        assert slora[0] - slora[-1] > 0.98 * gain
        assert slora[10] < lora[10]
        assert balanced[0] - balanced[-1] < 0.7 * gain


class TestTraffic:
    """Bytes of federated rounds."""

    # DistilBERT and ALBERT-base: blocks of width 768 and MLPs of 3072.
    BLOCK = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]

    def test_the_sparse_stage_sends_as_many_bytes_as_the_paper_says(self):
        distilbert, albert = self.BLOCK * 6, self.BLOCK
        assert bitmap_bytes(distilbert) == 42_467_328 // 8
        assert SEED_BYTES == 8
        # Rounded matrix by matrix, which is within a few entries of one per cent of all.
        assert sparse_round_bytes(distilbert, 0.01) == pytest.approx(4 * 424_673, abs=4 * 20)
        assert sparse_round_bytes(albert, 0.01) == pytest.approx(4 * 70_779, abs=4 * 3)
        roberta = self.BLOCK * 12
        assert sparse_round_bytes(roberta, 0.01) == pytest.approx(3.40e6, rel=0.002)

    def test_the_low_rank_stage_sends_as_many_bytes_as_the_paper_says(self):
        attention = [(768, 768)] * 2
        assert low_rank_round_bytes(attention * 6, 8) == 4 * 147_456
        assert low_rank_round_bytes(attention, 8) == 4 * 24_576
        assert low_rank_round_bytes(attention, 8, head=100) == 4 * (24_576 + 100)

    def test_all_rounds_both_ways(self):
        shapes = [(768, 768)] * 12
        sparse, low = sparse_round_bytes(shapes, 0.01, head=10), 4 * (8 * 12 * 1536 + 10)
        assert total_bytes(
            shapes, sparse_rounds=3, rounds=12, density=0.01, rank=8, head=10
        ) == 2 * (3 * sparse + 12 * low)

    def test_measured_bytes_are_those_of_the_formulas(self, tiny_model, tmp_path):
        method, model, where = build("slora", tiny_model, rank=4, density=0.05)
        shapes = list(module_shapes(tiny_model).values())
        sent = sum(u.values.numel() * u.values.element_size() for u in updates(model).values())
        assert sent == sparse_round_bytes(shapes, 0.05)
        model = method.enter_stage(model, 1, where)
        method.export(model, tmp_path, where)
        weights = load_file(tmp_path / "adapter_model.safetensors")
        assert sum(t.nbytes for t in weights.values()) == low_rank_round_bytes(shapes, 4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("keep_residual", [False, True])
def test_families_of_models(family, keep_residual, tmp_path):
    folder = make_tiny_model(tmp_path / family, model_type=family)
    method, model, where = build("slora", folder, **DENSE, keep_residual=keep_residual)
    disturb(model, size=0.1)
    sparse = logits(model)
    reference = load_model(folder, dtype=torch.float32)
    for path, update in updates(model).items():
        weight = reference.get_submodule(path).weight
        with torch.no_grad():
            weight += dense(update.index, update.values, update.shape)
    assert torch.allclose(sparse, logits(reference), atol=1e-4)
    model = method.enter_stage(model, 1, where)
    assert torch.allclose(logits(model), sparse, atol=1e-4) == keep_residual


def test_a_layer_computes_what_its_dense_matrix_would(tiny_model):
    method, model, where = build("slora", tiny_model, **DENSE, dtype=torch.float64)
    disturb(model)
    x = torch.randn(3, 48, dtype=torch.float64)
    for stage in range(2):
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        base = layer.base_layer.weight
        expected = linear(x, base + layer.get_delta_weight("default"))
        assert torch.allclose(layer.eval()(x), expected, atol=1e-12)
        if stage == 0:
            method.settings = method.settings.updated({"keep_residual": True})
            model = method.enter_stage(model, 1, where)
            disturb(model)
