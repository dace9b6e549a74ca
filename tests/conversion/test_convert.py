"""What is converted does what the adapter did, and the errors that are told are true."""

import json
import subprocess
import sys

import pytest
import torch
import tuner_cases
from method_helpers import base_folder, base_model
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    ShiraConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from gossamer.adapters.kinds.low_rank import LowRankAdapter
from gossamer.adapters.kinds.sparse_delta import SparseAdapter
from gossamer.adapters.kinds.table import KINDS
from gossamer.conversion.changes import MERGED
from gossamer.conversion.convert import convert_to_lora
from gossamer.errors import (
    AdapterFormatError,
    BaseMismatchError,
    SettingError,
    UnsupportedAdapterError,
    UsageError,
)
from gossamer.tuners import LamdaConfig, MeftConfig

from tiny import make_tiny_model

TARGETS = ["q_proj", "o_proj", "down_proj"]
OWN_EXACT = ("lamda", "lamda_pp", "lorta")
OWN_SPARSE = ("smt", "smt_drawn", "slora", "slora_residual", "sparse_lora")
PEFT = {
    "lora": LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "rslora": LoraConfig(r=4, use_rslora=True, target_modules=TARGETS, rank_pattern={"o_proj": 2}),
    "shira": ShiraConfig(r=4, target_modules=TARGETS),
    "dora": LoraConfig(r=4, use_dora=True, target_modules=TARGETS),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "norms": LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM"),
    "tokens": TrainableTokensConfig(token_indices=[1, 2], task_type="CAUSAL_LM"),
    "biases": LoraConfig(r=4, bias="lora_only", target_modules=TARGETS, task_type="CAUSAL_LM"),
    "meft": MeftConfig(width=4, reversible_layers=2, task_type="CAUSAL_LM"),
    "vera": VeraConfig(r=4, target_modules=["q_proj", "o_proj"]),
}
IDS = torch.arange(5, 37).view(2, 16)


def made(name, folder):
    """An adapter that has learnt something, as PEFT saves it."""
    if name in PEFT:
        torch.manual_seed(0)
        model = get_peft_model(tuner_cases.base(), PEFT[name])
        tuner_cases.stir(model)
    else:
        model = tuner_cases.tuned(name)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Adapters by name, each made once."""
    root, folders = tmp_path_factory.mktemp("saved"), {}

    def folder(name):
        if name not in folders:
            folders[name] = made(name, root / name)
        return folders[name]

    return folder


def convert(folder, output, **options):
    return convert_to_lora(folder, output, model=str(base_folder("llama")), **options)


def tuned_model(folder):
    base = base_model(base_folder("llama"), torch.float64)
    return PeftModel.from_pretrained(base, folder).double().eval()


def logits(folder):
    with torch.no_grad():
        return tuned_model(folder)(input_ids=IDS).logits


def changes(folder):
    """The change of each weight, in float64, by its path."""
    before = dict(base_model(base_folder("llama"), torch.float64).named_parameters())
    after = dict(tuned_model(folder).merge_and_unload().named_parameters())
    found = {path.removesuffix(".weight"): after[path] - w for path, w in before.items()}
    return {path: change.detach() for path, change in found.items() if change.any()}


@pytest.mark.parametrize("name", [*OWN_EXACT, "lora", "rslora"])
def test_changes_of_low_rank_are_kept_exactly(name, saved, tmp_path):
    done = convert(saved(name), tmp_path / "lora")
    assert done.exact
    assert done.error == 0
    expected = logits(saved(name))
    assert (expected - logits_of_base()).abs().max() > 0.1
    torch.testing.assert_close(logits(tmp_path / "lora"), expected, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


def logits_of_base():
    with torch.no_grad():
        return base_model(base_folder("llama"), torch.float64)(input_ids=IDS).logits


def test_an_exact_conversion_of_lora_has_the_bits_of_its_factors(saved, tmp_path):
    convert(saved("lora"), tmp_path / "lora")
    before, after = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (saved("lora"), tmp_path / "lora")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", [*OWN_SPARSE, "shira"])
def test_errors_of_approximations_are_true(name, saved, tmp_path):
    done = convert(saved(name), tmp_path / "lora", rank=6)
    assert not done.exact
    wanted, got = changes(saved(name)), changes(tmp_path / "lora")
    assert wanted.keys() == {part.module for part in done.modules}
    for part in done.modules:
        error = (wanted[part.module] - got[part.module]).norm() / wanted[part.module].norm()
        assert float(error) == pytest.approx(part.error, rel=1e-4, abs=1e-6), part.module
        assert part.rank <= 6
    lost = sum(float((w - got[path]).square().sum()) for path, w in wanted.items())
    total = sum(float(w.square().sum()) for w in wanted.values())
    assert done.error == pytest.approx((lost / total) ** 0.5, rel=1e-4, abs=1e-6)
    assert done.worst.error == max(part.error for part in done.modules)


@pytest.mark.parametrize("name", [*OWN_SPARSE, "shira"])
def test_enough_rank_loses_nothing(name, saved, tmp_path):
    done = convert(saved(name), tmp_path / "lora", rank=1000)
    assert done.error < 1e-6
    expected = logits(saved(name))
    torch.testing.assert_close(logits(tmp_path / "lora"), expected, rtol=1e-5, atol=1e-5)


def test_each_matrix_gets_the_rank_that_an_error_asks_for(saved, tmp_path):
    done = convert(saved("slora"), tmp_path / "lora", max_error=0.3)
    assert 0.2 < done.worst.error <= 0.3
    assert len({part.rank for part in done.modules}) > 1
    record = json.loads((tmp_path / "lora" / "conversion.json").read_text())
    assert record["method"] == "slora"
    assert record["digest"] == done.digest
    assert record["worst"] == {
        "module": done.worst.module, "rank": done.worst.rank, "error": done.worst.error
    }  # fmt: skip
    assert len(record["modules"]) == len(done.modules)


def test_an_error_that_the_rank_cannot_keep_is_refused(saved, tmp_path):
    with pytest.raises(SettingError, match=r"at rank 4 the error of .* rank \d+ would be needed"):
        convert(saved("slora"), tmp_path / "lora", rank=4, max_error=0.1)
    assert not list(tmp_path.iterdir())


def test_sparse_changes_need_a_rank_or_an_error(saved, tmp_path):
    with pytest.raises(SettingError, match=r"--rank R, --max-error E"):
        convert(saved("shira"), tmp_path / "lora")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("dora", "each row of the weights.*gossamer adapters merge"),
        ("ia3", "rows and columns of the weights.*gossamer adapters merge"),
        ("prefix", "keys and values in front of the prompt.*gossamer serve"),
        ("loreft", "hidden states at positions.*gossamer serve"),
        ("houlsby", "networks behind layers.*gossamer serve"),
        ("sherl", "a network between early and late layers.*gossamer serve"),
        ("meft", "the model's layers on two streams.*gossamer serve"),
        ("norms", "biases or norms.*gossamer adapters merge"),
        ("tokens", "embeddings of some tokens.*gossamer adapters merge"),
        ("biases", "beside its factors.*gossamer adapters merge"),
        ("vera", "is PEFT's own; peft.save_as_lora"),
    ],
)
def test_what_no_lora_does_is_refused(name, match, saved, tmp_path):
    with pytest.raises(UnsupportedAdapterError, match=match):
        convert(saved(name), tmp_path / "lora", rank=8)
    assert not list(tmp_path.iterdir())


def test_each_kind_is_converted_or_refused_with_a_reason():
    for adapter_class, kind in KINDS.items():
        known = adapter_class in (LowRankAdapter, SparseAdapter, *MERGED)
        assert known or set(kind.unmergeable) == set(kind.types), adapter_class


def test_whole_modules_beside_the_adapter_are_refused(tmp_path):
    config = LamdaConfig(rank=4, target_modules=TARGETS, modules_to_save=["norm"])
    get_peft_model(tuner_cases.base(), config).save_pretrained(tmp_path / "a")
    with pytest.raises(UnsupportedAdapterError, match="modules_to_save"):
        convert(tmp_path / "a", tmp_path / "lora")


@pytest.mark.parametrize("name", ["lamda", "smt", "lorta"])
def test_another_base_is_refused(name, saved, tmp_path):
    other = make_tiny_model(tmp_path / "other", num_hidden_layers=1, intermediate_size=64)
    with pytest.raises(BaseMismatchError, match=r"the base it was trained on"):
        convert_to_lora(saved(name), tmp_path / "lora", rank=8, model=str(other))
    assert not (tmp_path / "lora").exists()


def test_a_base_is_needed_and_named(saved, tmp_path):
    folder = tmp_path / "nameless"
    folder.mkdir()
    for path in saved("smt").iterdir():
        if path.name == "adapter_config.json":
            config = {**json.loads(path.read_text()), "base_model_name_or_path": None}
            (folder / path.name).write_text(json.dumps(config))
        else:
            (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="names no base model; give it with --model"):
        convert_to_lora(folder, tmp_path / "lora", rank=8)


def test_numbers_that_are_not_finite_are_refused(saved, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in saved("lamda").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "adapter_model.safetensors")
    next(w for key, w in weights.items() if "lamda_S" in key)[0, 0] = torch.nan
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterFormatError, match="NaN"):
        convert(folder, tmp_path / "lora")


def test_an_output_that_exists_is_left_alone(saved, tmp_path):
    (tmp_path / "lora").mkdir()
    with pytest.raises(UsageError, match="exists"):
        convert(saved("lora"), tmp_path / "lora")
    assert not list((tmp_path / "lora").iterdir())


def test_a_failed_write_leaves_nothing(saved, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gossamer.files.flush_all", fail)
    with pytest.raises(Exception, match="no space left"):
        convert(saved("lora"), tmp_path / "lora")
    assert not list(tmp_path.iterdir())


_WITHOUT_GOSSAMER = """
import sys
sys.modules["gossamer"] = None
import torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64).eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(5, 37).view(2, 16)).logits, sys.argv[2])
"""


def test_plain_peft_loads_the_result(tmp_path):
    model = tuner_cases.tuned("lamda")
    model.peft_config["default"].base_model_name_or_path = str(base_folder("llama"))
    model.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    convert_to_lora(tmp_path / "a", tmp_path / "lora")
    out = tmp_path / "logits.pt"
    command = [
        sys.executable,
        "-W",
        "error::UserWarning",
        "-c",
        _WITHOUT_GOSSAMER,
        tmp_path / "lora",
        out,
    ]
    subprocess.run(command, check=True, capture_output=True)
    torch.testing.assert_close(torch.load(out), logits(tmp_path / "a"), rtol=1e-5, atol=1e-5)
