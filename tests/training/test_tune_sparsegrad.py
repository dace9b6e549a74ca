"""Runs of SparseGrad: it learns, leaves a model or an adapter, and resumes exactly."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from runs import quiet_tune, step_losses, write_rows
from transformers import AutoModelForCausalLM

from gossamer import methods
from gossamer.adapters.merge import merge_into
from gossamer.errors import SettingError
from gossamer.methods import MethodContext
from gossamer.methods.sparsegrad.model import apply_sparsegrad, mapped_back, sparsegrad_layers
from gossamer.methods.sparsegrad.settings import SparseGradSettings

from tiny import make_context

RUN = {"method": "sparsegrad", "learning_rate": 3e-3, "share": 0.1, "batch_size": 4}
IDS = torch.arange(20)[None] + 5


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def batches(count=2):
    for index in range(count):
        yield {"input_ids": IDS + index, "labels": IDS + index}


def test_a_run_learns_and_leaves_a_model(tiny_model, rows, tmp_path):
    quiet_tune(tiny_model, rows, tmp_path / "run", max_steps=25, gradient_accumulation=2, **RUN)
    found = [loss for _, loss in step_losses(tmp_path / "run")]
    assert sum(found[-5:]) < sum(found[:5]) - 1
    model, base = load(tmp_path / "run"), load(tiny_model)
    for name, weight in model.state_dict().items():
        learns = "up_proj" in name or "down_proj" in name
        assert torch.equal(weight, base.state_dict()[name]) != learns, name


def test_resuming_equals_the_undisturbed_run(tiny_model, rows, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    quiet_tune(tiny_model, rows, whole, max_steps=6, save_every=3, save_total_limit=9, **RUN)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step-6")
    record = (again / "run.yaml").read_text()
    (again / "run.yaml").write_text(record[: record.index("\nresult:") + 1])
    quiet_tune(output=again, resume=True)
    assert step_losses(again) == step_losses(whole)
    model = "model.safetensors"
    assert (again / model).read_bytes() == (whole / model).read_bytes()


@pytest.fixture
def trained(tiny_model):
    """(model with some learnt change, context)"""
    settings = SparseGradSettings(share=0.1)
    model = apply_sparsegrad(load(tiny_model), batches(), settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in sparsegrad_layers(model).values():
            layer.weight += 0.05 * torch.randn(layer.weight.shape, generator=generator)
    context = MethodContext(
        model_name="some-name",
        base_folder=tiny_model,
        base_fingerprint="f" * 64,
        dtype="float32",
        device="cpu",
        seed=0,
        total_steps=1,
    )
    return model, context


def test_the_model_starts_as_its_base_and_only_chosen_layers_learn(tiny_model):
    settings = SparseGradSettings(layer_step=2, modules=["down_proj"])
    model = apply_sparsegrad(load(tiny_model), batches(), settings)
    assert torch.allclose(logits(model), logits(load(tiny_model)), atol=1e-4)
    assert [p.split(".")[2] for p in sparsegrad_layers(model)] == ["0", "2"]
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learning == 2 * (48 * 100 + 1), "the weights, and one marker each"
    one, other = sparsegrad_layers(model).values()
    assert one.basis is other.basis


def test_mapping_back_is_undone(trained):
    model, _ = trained
    inside = logits(model)
    with mapped_back(model) as plain:
        assert not sparsegrad_layers(plain)
        assert torch.allclose(logits(plain), inside, atol=1e-4)
    assert torch.equal(logits(model), inside)


# PEFT's SHiRA makes sparse tensors without saying whether they are to be checked.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("form", ["low-rank", "sparse"])
def test_an_adapter_meets_the_stated_error(trained, tiny_model, tmp_path, form):
    model, context = trained
    error = 0.2
    method = methods.find("sparsegrad").from_values({"export": form, "export_error": error})
    method.export(model, tmp_path, context)
    adapted = PeftModel.from_pretrained(load(tiny_model), tmp_path).merge_and_unload()
    base, ours, sizes = load(tiny_model), load(tiny_model), []
    merge_into(ours, tmp_path, base_fingerprint="f" * 64)
    assert torch.allclose(logits(ours), logits(adapted), atol=1e-4)
    for path, layer in sparsegrad_layers(model).items():
        before = base.get_submodule(path).weight
        wanted, found = layer.dense_weight() - before, adapted.get_submodule(path).weight - before
        assert (found - wanted).norm() <= (error + 1e-4) * wanted.norm()
        sizes.append((found.norm() / wanted.norm()).item())
    assert min(sizes) < 0.999, "something was left out"


def test_how_the_base_was_rounded_is_no_part_of_an_adapter(tiny_model, tmp_path):
    """The base is stored in float32 and trained on in bfloat16; one direction is learnt."""
    method = methods.find("sparsegrad").from_values({"export": "low-rank", "export_error": 0.1})
    where = make_context(tiny_model, dtype="bfloat16", probe_batches=lambda count: batches())
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model = method.prepare(base, where)
    for layer in sparsegrad_layers(model).values():
        rows, columns = layer.weight.shape
        layer.weight.data += 1e-4 * torch.ones(rows, 1) @ torch.ones(1, columns)
    method.export(model, tmp_path, where)
    ranks = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert set(ranks.values()) == {1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modules": ["nope"]}, "'nope' matches no layer"),
        ({"modules": ["q_proj", "lm_head"]}, "output head"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny_model, values, message):
    with pytest.raises(SettingError, match=message):
        apply_sparsegrad(load(tiny_model), batches(), SparseGradSettings(**values))


def test_a_quantised_base_is_refused(tiny_model):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        tiny_model, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    with pytest.raises(SettingError, match="full precision"):
        apply_sparsegrad(model, batches())
