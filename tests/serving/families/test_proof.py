"""A model is compared with transformers when it is loaded: served if equal, else refused."""

import pytest
import torch
from families_case import FAMILIES, MORE, SIZES, make_family
from house import ROOT
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.errors import UnsupportedModelError
from gossamer.kernels.paged_attention.cpu import CpuPagedAttention
from gossamer.kernels.paged_attention.reference import ReferencePagedAttention
from gossamer.llm import LLM
from gossamer.serving.runner.attach import AdaptedModules
from gossamer.serving.runner.model_runner import PagedModel
from gossamer.serving.runner.proof import prove, record, trial
from gossamer.serving.runner.proof.expect import WINDOW, expect, short_windows

from tiny import tiny_tokenizer


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing was proved before."""
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "proofs"


def open_and_close(folder, **settings):
    with LLM(folder, memory_gib=0.01, threads=1, **settings):
        pass


def test_a_proof_is_made_once(tmp_path, home, monkeypatch):
    folder = make_family(tmp_path / "model", "mistral")
    asked = []
    monkeypatch.setattr(trial, "expect", lambda model: asked.append(1) or expect(model))
    open_and_close(folder)
    open_and_close(folder)
    assert len(asked) == len(list(home.iterdir())) == 1
    # Of another config it is made again, and where the file is damaged.
    open_and_close(make_family(tmp_path / "other", "mistral", sliding_window=20))
    assert len(asked) == 2
    for path in home.iterdir():
        path.write_text("{")
    open_and_close(folder)
    assert len(asked) == 3


def test_few_proofs_are_kept(home, monkeypatch):
    monkeypatch.setattr(record, "MOST", 3)
    for name in "abcde":
        record.remember(name, [name])
    assert len(list(home.iterdir())) == 3
    assert record.read("e") == ["e"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "hidden", "fields"),
    [
        ("gemma2", "softcap", {"attn_logit_softcapping": 50.0}),
        ("gpt_oss", "sinks", {}),
        ("mistral", "window", {}),
    ],
)
def test_what_is_computed_otherwise_is_found(
    tmp_path, home, monkeypatch, family, hidden, fields, dtype
):
    """Attention that leaves out a feature is refused, though only long texts would tell."""
    folder = make_family(tmp_path / "model", family, **fields)
    attention = CpuPagedAttention if dtype == "float32" else ReferencePagedAttention
    call = attention.__call__
    places = {"window": 6, "softcap": 7, "sinks": 8}

    def forgetful(self, *given):
        given = list(given)
        if len(given) > places[hidden]:
            given[places[hidden]] = None if hidden == "sinks" else 0
        return call(self, *given)

    monkeypatch.setattr(attention, "__call__", forgetful)
    said = "the attention of layer 0 for a prompt computed whole differs .* in an output"
    with pytest.raises(UnsupportedModelError, match=f"'{family}' cannot be served: .*{said}"):
        open_and_close(folder, dtype=dtype)
    assert not home.exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_differs_behind_its_attention_is_found(tmp_path, home, monkeypatch, dtype):
    folder = make_family(tmp_path / "model", "llama")
    run = PagedModel.run
    monkeypatch.setattr(PagedModel, "run", lambda self, batch: -run(self, batch))
    with pytest.raises(UnsupportedModelError, match=r"computed whole differs .* a logit"):
        open_and_close(folder, dtype=dtype)
    assert not home.exists()


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "gemma3_text", "gpt2", "phi3", "qwen3"])
def test_rounding_in_bfloat16_is_no_difference(tmp_path, home, family):
    open_and_close(make_family(tmp_path / "model", family), dtype="bfloat16")
    assert len(list(home.iterdir())) == 1


def test_what_attention_is_told_and_does_not_know_is_refused(tmp_path, monkeypatch):
    folder = make_family(tmp_path / "model", "gemma2")
    monkeypatch.setattr(prove, "KNOWN", prove.KNOWN - {"softcap"})
    with pytest.raises(UnsupportedModelError, match="tell attention softcap, which is not"):
        open_and_close(folder)


@pytest.mark.parametrize(
    ("family", "fields", "said"),
    [
        ("bloom", {"num_key_value_heads": 4}, "'bloom' cannot be served"),
        ("mamba", {}, "'mamba' cannot be served"),
        ("llama4_text", {}, "with chunked attention"),
        (
            "llama4_text",
            {"layer_types": ["full_attention"] * 2, "no_rope_layers": [1, 0]},
            "attn_temperature_tuning cannot be served",
        ),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "'lfm2' cannot be served: .*chunk"),
    ],
)
def test_families_that_compute_otherwise_are_refused(tmp_path, family, fields, said):
    config = AutoConfig.for_model(family, **{**SIZES, **fields})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=said):
        open_and_close(tmp_path / "model")


def test_a_pool_of_two_blocks_is_enough(tmp_path):
    open_and_close(make_family(tmp_path / "model", "qwen3"), block_tokens=7, max_context=14)


def test_windows_are_short_only_while_a_model_is_judged(tmp_path):
    folder = make_family(tmp_path / "model", "gemma3_text", sliding_window=50)
    model = AutoModelForCausalLM.from_pretrained(folder)

    def windows():
        return {getattr(each, "sliding_window", None) for each in (model.config, *model.modules())}

    with short_windows(model):
        assert windows() == {None, WINDOW}
    assert windows() == {None, 50}


ROPE = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 64,
    "llama_4_scaling_beta": 2.0,
}  # fmt: skip


def test_scales_that_begin_late_are_seen(tmp_path, monkeypatch):
    folder = make_family(tmp_path / "model", "ministral3", head_dim=16, rope_parameters=ROPE)
    open_and_close(folder)
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "again"))

    def unscaled(model):
        rope = model.config.rope_parameters
        found = expect(model)
        rope["llama_4_scaling_beta"] = 0.0
        return found

    monkeypatch.setattr(trial, "expect", unscaled)
    with pytest.raises(UnsupportedModelError, match=r"differs .* in a logit"):
        open_and_close(folder)


def test_layers_that_do_not_see_each_token_once_take_no_adapters():
    class Layer:
        def __init__(self):
            self.dense = object()

    layers = {name: Layer() for name in ("once", "twice", "some", "never")}
    modules = AdaptedModules(shapes=dict.fromkeys(layers, (1, 1)), linears=dict(layers))
    calls = [("once", 5), ("twice", 5), ("twice", 5), ("some", 3)]
    modules.keep_called([(layers[name], count) for name, count in calls], 5)
    assert set(modules.shapes) == {"once"}


def test_the_table_of_the_docs_lists_the_families_that_are_tried():
    text = (ROOT / "docs" / "reference" / "models.md").read_text()
    listed = {
        cell.strip("` ")
        for line in text.splitlines()
        if line.startswith("| `")
        for cell in line.split("|")[1].split(",")
    }
    assert listed - {"model_type"} == {*FAMILIES, *MORE}
