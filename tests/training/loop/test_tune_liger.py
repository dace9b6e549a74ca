"""Liger in a run: who is refused, and what is asked of Liger; a stand-in computes here."""

import sys
from types import ModuleType

import pytest
import torch
from runs import TINY, quiet_tune, write_rows
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from gossamer.errors import GossamerError, TrainingError
from gossamer.sparsity import SparsityPlan
from gossamer.training.loop.liger import check_liger, liger_kernels, use_liger

from tiny import SHAPE

PLAN = """\
name: tiny
num_layers: 3
mlp: {"1-2": 0.6}
attention: {2: 0.5}
start: 2
"""


def norm_forward(self, hidden):
    StandIn.uses["rms_norm"] += 1
    variance = hidden.float().pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))


def mlp_forward(self, x):
    StandIn.uses["swiglu"] += 1
    return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class StandIn:
    """Changes a model in the way of liger-kernel 0.8.5: instances, and the module of the family."""

    asked: list
    uses: dict

    @staticmethod
    def apply(model, **kernels):
        StandIn.asked.append(kernels)
        if model.config.model_type != "llama":
            return
        for name, kind, forward in (
            ("rms_norm", "LlamaRMSNorm", norm_forward),
            ("swiglu", "LlamaMLP", mlp_forward),
        ):
            if kernels[name]:
                setattr(modeling_llama, kind, None)
                for module in model.modules():
                    if type(module).__name__ == kind:
                        module.__dict__["forward"] = forward.__get__(module, type(module))


@pytest.fixture
def liger(monkeypatch):
    """The stand-in where transformers looks for Liger."""
    StandIn.asked, StandIn.uses = [], {"rms_norm": 0, "swiglu": 0}
    package, inner = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    inner._apply_liger_kernel_to_instance = StandIn.apply
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", inner)
    installed(monkeypatch, True)
    return StandIn


def installed(monkeypatch, answer):
    for where in ("gossamer.training.loop.liger", "transformers.integrations.liger"):
        monkeypatch.setattr(f"{where}.is_liger_kernel_available", lambda: answer)


def config(model_type="llama", **changes):
    return AutoConfig.for_model(model_type, **{**SHAPE, "vocab_size": 64, **changes})


def base(model_type="llama"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(model_type))


def test_a_run_on_a_cpu_is_refused_before_anything_is_loaded(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("gossamer.training.prepare.load_tokenizer", None)
    with pytest.raises(GossamerError, match=r"liger_kernel=true needs a GPU.* on 'cpu'"):
        quiet_tune(
            tiny_model, "no such data", tmp_path / "run", liger_kernel=True, device="cpu", **TINY
        )
    assert not (tmp_path / "run").exists()


def test_the_extra_is_named_where_the_package_is_not_installed(tiny_model, monkeypatch):
    installed(monkeypatch, False)
    with pytest.raises(GossamerError, match=r"0\.8\.\d or newer; in the clone"):
        check_liger("cuda:0", tiny_model)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (config("gemma"), "type 'gemma' .* are not supported; those of llama"),
        (config(hidden_act="gelu"), "type 'llama' with activation 'gelu'"),
    ],
    ids=["gemma", "gelu"],
)
def test_models_that_liger_would_skip_or_change_are_refused(tmp_path, monkeypatch, other, words):
    installed(monkeypatch, True)
    other.save_pretrained(tmp_path)
    with pytest.raises(GossamerError, match=words):
        check_liger("cuda:0", tmp_path)


def test_supported_models_pass(tiny_model, monkeypatch):
    installed(monkeypatch, True)
    check_liger("cuda:0", tiny_model)


def test_only_kernels_that_leave_other_models_and_the_loss_alone_are_asked_for(liger):
    use_liger(base(), liger_kernels(None))
    use_liger(base(), liger_kernels(SparsityPlan(qk={"0": 0.5}, vo={"0": 0.5})))
    use_liger(base(), liger_kernels(SparsityPlan(mlp={"0": 0.5})))
    off = {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
    whole, norms = {"rms_norm": True, "swiglu": True}, {"rms_norm": True, "swiglu": False}
    assert liger.asked == [off | whole, off | whole, off | norms]


def test_other_models_of_the_process_are_left_alone(liger):
    before, family = base(), dict(vars(modeling_llama))
    changed = base()
    use_liger(changed, liger_kernels(None))
    assert vars(modeling_llama) == family
    ids = torch.arange(12).view(2, 6) + 3
    expected = before(ids).logits
    after = base()(ids).logits
    assert liger.uses == {"rms_norm": 0, "swiglu": 0}
    assert torch.equal(after, expected)
    torch.testing.assert_close(changed(ids).logits, expected)
    assert liger.uses == {"rms_norm": 7, "swiglu": 3}


def test_a_liger_that_changes_nothing_is_told(liger):
    with pytest.raises(TrainingError, match="no kernels for a MistralForCausalLM"):
        use_liger(base("mistral"), liger_kernels(None))


@pytest.mark.parametrize(
    ("method", "sparse"), [("lora", False), ("lora", True), ("ln_tuning", False), ("full", False)]
)
def test_adapters_learn_over_replaced_layers(
    liger, tiny_model, tmp_path, monkeypatch, method, sparse
):
    monkeypatch.setenv("GOSSAMER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("gossamer.training.prepare.check_liger", lambda device, folder: None)
    rows = write_rows(tmp_path / "rows.jsonl")
    options = {"max_steps": 4, "method": method, "device": "cpu", **TINY}
    if method != "lora":
        del options["rank"]
    if sparse:
        (tmp_path / "plan.yaml").write_text(PLAN)
        options["sparse_compute"] = str(tmp_path / "plan.yaml")
    plain = quiet_tune(tiny_model, rows, tmp_path / "plain", **options)
    assert liger.uses["rms_norm"] == 0
    fused = quiet_tune(tiny_model, rows, tmp_path / "fused", liger_kernel=True, **options)
    torch.testing.assert_close(torch.tensor(fused.losses), torch.tensor(plain.losses))
    assert fused.losses[-1] < fused.losses[0]
    assert liger.uses["rms_norm"] > 0
    assert (liger.uses["swiglu"] > 0) is not sparse
