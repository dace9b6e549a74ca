"""What PEFT and its users expect of any tuner: fields, refusals, status, files."""

import json
import math

import pytest
import torch
from house import PACKAGE, Source, imported_sources
from method_helpers import IDS, LABELS, base_folder, logits
from peft import PeftConfig, PeftModel, convert_to_lora, get_peft_model
from peft.helpers import disable_input_dtype_casting
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BitsAndBytesConfig,
)
from transformers.pytorch_utils import Conv1D
from tuner_cases import BLOCKS, CONFIGS, LINEAR, MERGED, NAMES, base, stir, tuned

import gossamer.tuners
from gossamer.adapters.load import load_adapter
from gossamer.basemodel.load import load_model
from gossamer.errors import SettingError, UnsupportedAdapterError
from gossamer.methods.common.tuner_config import REQUIRES
from gossamer.methods.smt.layer import SmtLinear
from gossamer.tuners import LamdaConfig, LortaConfig, ReftConfig, SmtConfig


def saved(model, folder):
    model.save_pretrained(folder, save_embedding_layers=False)
    return json.loads((folder / "adapter_config.json").read_text())


def rewrite(folder, change):
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- one import, and what a folder says to those who have not made it -------------------------


def test_one_import_registers_every_tuner():
    paths = (PACKAGE / "methods").rglob("*.py")
    registering = {Source(p) for p in paths if "\nregister_tuner(" in p.read_text()}
    assert len(registering) == 9
    assert registering <= imported_sources(Source(PACKAGE / "tuners.py"))
    for name in gossamer.tuners.__all__:
        if name.endswith("Config"):
            config = getattr(gossamer.tuners, name)
            assert PEFT_TYPE_TO_CONFIG_MAPPING[config.tuner_type] is config


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_says_what_it_needs_and_loads_if_it_does_not(name, tmp_path):
    """Those of earlier versions say nothing."""
    model = tuned(name)
    assert saved(model, tmp_path)["requires"] == REQUIRES
    assert "import gossamer.tuners" in REQUIRES
    card = (tmp_path / "README.md").read_text()
    assert card.count("import gossamer.tuners") == 1
    saved(model, tmp_path)
    again = (tmp_path / "README.md").read_text()
    assert again.count("import gossamer.tuners") == 1, "said once"
    assert "pip install gossamer" in again
    rewrite(tmp_path, lambda content: content.pop("requires"))
    assert torch.equal(logits(PeftModel.from_pretrained(base(), tmp_path)), logits(model))


def test_what_a_foreign_file_calls_required_is_not_passed_on(tmp_path):
    model = tuned("slora")
    saved(model, tmp_path)
    rewrite(tmp_path, lambda content: content.update(requires="pip install something-else"))
    assert PeftConfig.from_pretrained(tmp_path).requires == REQUIRES


@pytest.mark.parametrize("name", ["smt", "loreft"])
def test_the_digest_is_the_same_with_and_without_the_note(name, tmp_path):
    saved(tuned(name), tmp_path)
    digest = load_adapter(tmp_path).digest
    rewrite(tmp_path, lambda content: content.pop("requires"))
    assert load_adapter(tmp_path).digest == digest


# --- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LINEAR, "loreft"])
@pytest.mark.parametrize("targets", ["all-linear", r".*q_proj"])
def test_layers_beside_a_pattern_are_refused(name, targets):
    """PEFT matches a pattern against whole paths and would not look at the layers' numbers."""
    with pytest.raises(ValueError, match=r"layers_to_transform|target_modules") as refusal:
        CONFIGS[name](target_modules=targets, layers_to_transform=[0])
    assert isinstance(refusal.value, SettingError)


@pytest.mark.parametrize("name", LINEAR)
def test_layers_beside_a_list_are_obeyed(name):
    config = CONFIGS[name](target_modules=["q_proj", "v_proj"], layers_to_transform=[1])
    model = get_peft_model(base(), config)
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    assert learning
    assert all(".layers.1." in name for name in learning)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LamdaConfig(layers_to_transform=[0]), "needs a list as target_modules"),
        (lambda: ReftConfig(layers_to_transform=[0]), "layers_to_transform = .*use layers"),
        (lambda: ReftConfig(target_modules=["q_proj"]), "target_modules = .*use layers"),
        (lambda: ReftConfig(exclude_modules=["q_proj"]), "exclude_modules = .*use layers"),
        (lambda: SmtConfig(blocks=BLOCKS, target_modules=["q_proj"]), "target_modules = .*blocks"),
        (lambda: SmtConfig(blocks=BLOCKS, layers_to_transform=[0]), "layers_to_transform = .*blo"),
        (lambda: SmtConfig(target_modules=["q_proj"], density=0), "density = 0"),
        (lambda: SmtConfig(target_modules=["q_proj"], block_size=0), "block_size = 0"),
        (lambda: LortaConfig(layers_pattern="layers"), "`layers_to_transform` must also"),
        (lambda: LortaConfig(target_parameters=["weight"]), "target_parameters = .*target_modules"),
    ],
)
def test_a_field_that_would_be_ignored_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as refusal:
        make()
    assert isinstance(refusal.value, SettingError)


@pytest.mark.parametrize("name", NAMES)
def test_without_initialised_weights_an_adapter_changes_something(name, tmp_path):
    """What scripts that test a pipeline ask for."""
    torch.manual_seed(0)
    model = get_peft_model(base(), CONFIGS[name](init_weights=False))
    assert not torch.allclose(logits(model), logits(base()), atol=1e-2)
    assert saved(model, tmp_path)["init_weights"] is False
    assert torch.equal(logits(PeftModel.from_pretrained(base(), tmp_path)), logits(model))


def test_blocks_are_drawn_where_none_are_chosen(tmp_path):
    config = SmtConfig(target_modules=["q_proj", "down_proj"], block_size=16, density=0.2, seed=3)
    model = get_peft_model(base(), config)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SmtLinear)}
    # q_proj is 64 x 48, 12 blocks of which 2 are drawn; down_proj 48 x 100, 21 of which 4 are.
    counts = {name.rpartition(".")[2]: len(m.smt_blocks["default"]) for name, m in layers.items()}
    assert counts == {"q_proj": 2, "down_proj": 4}
    assert len({tuple(map(tuple, m.smt_blocks["default"].tolist())) for m in layers.values()}) > 2
    stir(model)
    assert saved(model, tmp_path)["layer_sizes"]["model.layers.0.self_attn.q_proj"] == [2, 512]
    again = PeftModel.from_pretrained(base(), tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_blocks_of_a_file_that_were_never_loaded_are_missed(tmp_path):
    saved(tuned("smt"), tmp_path)
    model = get_peft_model(base(), PeftConfig.from_pretrained(tmp_path))
    with pytest.raises(SettingError.__base__, match="load its weights, or give the configuration"):
        logits(model)


# --- models and layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINEAR)
def test_models_that_are_not_of_transformers(name):
    plain = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
    model = get_peft_model(plain, CONFIGS[name](target_modules=["0", "2"]))
    model(torch.ones(2, 8)).sum().backward()
    assert any(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(
    "layer",
    [nn.Embedding(9, 8), nn.Conv2d(8, 8, 1), nn.MultiheadAttention(8, 2), Conv1D(8, 8)],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_are_not_linear_are_refused_by_name(name, layer):
    model = nn.ModuleDict({"good": nn.Linear(8, 8), "odd": layer})
    with pytest.raises(SettingError, match=rf"odd.* is a {type(layer).__name__}"):
        get_peft_model(model, CONFIGS[name](target_modules=["odd"]))


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    model = AutoModelForSequenceClassification.from_pretrained(base_folder("llama"), num_labels=1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*score.weight")
def test_a_classifier_learns(name, classifier_folder):
    """One label for each row; the head is as narrow as can be, and learns as a whole."""
    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder)
    fields = {"target_modules": "all-linear"} if name in LINEAR else {}
    model = get_peft_model(model, CONFIGS[name](task_type="SEQ_CLS", **fields))
    model(input_ids=IDS, labels=torch.tensor([0.5, -0.5])).loss.backward()
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert any("score" in n for n in learning)
    assert not [n for n in learning if "score" in n and model.base_model.prefix in n]
    assert all(p.grad is not None for n, p in learning.items() if "score" in n)


def test_an_encoder_is_refused_by_reft():
    encoder = BertModel(
        BertConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=50,
        )
    )
    with pytest.raises(UnsupportedAdapterError, match="BertModel has no list of decoder blocks"):
        get_peft_model(encoder, ReftConfig(rank=2))


@pytest.mark.parametrize("name", MERGED)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_safe_merge_of_broken_weights_is_refused_in_peft_s_words(name, broken):
    model = tuned(name)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data[0] = broken
    words = "NaNs detected in the merged weights. The adapter default seems to be broken"
    with pytest.raises(ValueError, match=words):
        model.merge_and_unload(safe_merge=True)


# --- what layers show ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_layers_show(name):
    model = tuned(name)
    status = model.get_model_status()
    assert status.available_adapters == ["default"]
    assert status.active_adapters == ["default"]
    layers = list(model.base_model._layers())
    assert len(layers) == status.num_adapter_layers
    assert all(layer.in_features > 0 and layer.out_features > 0 for layer in layers)
    expected = logits(model)
    with disable_input_dtype_casting(model):
        assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("name", ["smt", "sparse_lora", "lamda", "lorta", "houlsby"])
def test_a_quantised_layer_shows_how(name):
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = load_model(base_folder("llama"), dtype=torch.float32, quantization_config=config)
    model = get_peft_model(model, CONFIGS[name]())
    assert model.get_model_status().quantization_backend
    assert all("quantization_backend=" in repr(layer) for layer in model.base_model._layers())


@pytest.mark.parametrize("name", ["smt", "slora", "slora_residual", "sparse_lora"])
def test_a_sparse_change_becomes_lora_of_enough_rank(name):
    """A change beside the weight is what PEFT converts; how exactly is up to the rank."""
    model = tuned(name)
    config, weights = convert_to_lora(model, rank=48)
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    delta = model.get_submodule(path).get_delta_weight("default")
    product = weights[f"{path}.lora_B.weight"] @ weights[f"{path}.lora_A.weight"]
    assert torch.allclose(config.lora_alpha / config.r * product, delta, atol=1e-5)


def test_two_sets_of_blocks_learn_together():
    model = tuned("smt")
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    stir(model, seed=1)
    expected = logits(model)
    found = model(input_ids=IDS, labels=LABELS)
    assert torch.equal(found.logits.detach(), expected)
    found.loss.backward()
    for adapter in ("default", "second"):
        values = [p for n, p in model.named_parameters() if n.endswith(f"smt_values.{adapter}")]
        assert all(p.grad.abs().sum() > 0 for p in values)
    pairs = [
        (m.smt_values["default"].grad, m.smt_values["second"].grad)
        for m in model.modules()
        if isinstance(m, SmtLinear)
    ]
    # The same places of the same weights.
    assert all(torch.allclose(one, two, atol=1e-7) for one, two in pairs)
