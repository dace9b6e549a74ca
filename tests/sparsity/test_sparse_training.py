"""Sparse compute with what people train with: TRL, checkpointing, compile, other adapters."""

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, ShiraConfig, get_peft_model
from sparse_case import ATTENTION, MLP, VOCAB, batch, gradients, masked_dense, recorded, tiny_base
from sparse_case import with_lora as lora
from test_sparse_products import assert_same
from transformers import AutoConfig, AutoModelForCausalLM

from gossamer.errors import GossamerError, SettingError
from gossamer.sparsity import SparseComputeCallback, SparsityPlan, sparsify

PLAN = SparsityPlan(mlp={"0-2": 0.6}, qk={"1-2": 0.5}, vo={"0": 0.3, "2": 0.5}, start=0)


def equals_masked_dense(model, monkeypatch, plan=PLAN, tolerance=1e-11):
    inputs = batch()
    with recorded(monkeypatch) as chosen, sparsify(model, plan) as handle:
        sparse = gradients(model, inputs)
        rows = handle._pass.split.sparse
    tokens = torch.zeros(inputs["labels"].numel(), dtype=torch.bool)
    tokens[rows] = True
    with masked_dense(model, chosen, tokens.view(inputs["labels"].shape)):
        assert_same(gradients(model, inputs), sparse, tolerance)
    assert sparse[2]


# The libraries' own names for the same thing are changing.
renamed = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")


def peft(config, **base):
    model = get_peft_model(tiny_base(**base), config)
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.rand_like(parameter)
    return model.train()


@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + MLP], ids=len)
def test_dora_is_exact(targets, monkeypatch):
    equals_masked_dense(lora(tiny_base(), targets, use_dora=True), monkeypatch)


def test_ia3_is_exact(monkeypatch):
    config = IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    equals_masked_dense(peft(config), monkeypatch)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"init_lora_weights": "pissa"}])
def test_relatives_of_lora_are_exact(options, monkeypatch):
    base = tiny_base(dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=ATTENTION, **options)).double()
    equals_masked_dense(model.train(), monkeypatch)


@renamed
def test_gradient_checkpointing_gives_the_same_gradients():
    inputs = batch()
    model = lora(tiny_base(), [*ATTENTION, "up_proj"])
    for criterion in ("sample", "svd", "random"):
        with sparsify(model, PLAN.updated({"criterion": criterion})) as handle:
            plain = gradients(model, inputs)
            for reentrant in (False, True):
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                handle.set_step(0)
                again = gradients(model, inputs)
                assert_same(plain, again, 1e-12)
                model.gradient_checkpointing_disable()
            handle.set_step(0)


@renamed
def test_a_reference_pass_between_forward_and_backward_disturbs_nothing():
    model, inputs = lora(tiny_base()), batch()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with sparsify(model, PLAN):
        expected = gradients(model, inputs)
        model.zero_grad()
        out = model(**inputs)
        with torch.no_grad(), model.disable_adapter():
            model(**batch(rows=2, length=9, seed=3))
        out.loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert_same((out.loss.detach(), out.logits.detach(), grads), expected, 1e-12)


def test_two_micro_batches_accumulate():
    model = lora(tiny_base())
    first, second = batch(), batch(seed=1)
    with sparsify(model, PLAN):
        one, two = gradients(model, first)[2], gradients(model, second)[2]
        model.zero_grad()
        for inputs in (first, second):
            model(**inputs).loss.backward()
        for name, parameter in model.named_parameters():
            if name in one:
                torch.testing.assert_close(parameter.grad, one[name] + two[name])


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(autocast):
    dtype = torch.float32 if autocast else torch.bfloat16
    model, inputs = lora(tiny_base(dtype=dtype), ATTENTION + MLP), batch()
    exact = copy.deepcopy(model).double()
    with sparsify(model, PLAN), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, logits, grads = gradients(model, inputs)
    assert torch.isfinite(logits).all()
    with sparsify(exact, PLAN):
        exact_loss, _, exact_grads = gradients(exact, inputs)
    assert loss.item() == pytest.approx(exact_loss.item(), rel=0.1)
    for name, grad in grads.items():
        assert grad.dtype == dtype
        one, other = grad.double().flatten(), exact_grads[name].flatten()
        assert torch.cosine_similarity(one, other, dim=0) > 0.9, name


def test_detach_base_sends_no_gradient_through_the_slices():
    model, inputs = lora(tiny_base(), ATTENTION), batch(outputs=4, padding="none")
    shares = {"qk": {"0-2": 0.5}, "vo": {"0-2": 0.5}}
    plan = SparsityPlan(**shares, start=0, detach_base=True, border="labels", dense_first=0)
    linear = model.get_base_model().model.layers[1].self_attn.v_proj.get_base_layer()
    seen = []
    hook = linear.register_full_backward_hook(lambda m, i, o: seen.append(i[0]))
    for detach in (True, False):
        with sparsify(model, plan.updated({"detach_base": detach})):
            gradients(model, inputs)
    hook.remove()
    detached, whole = seen
    assert not detached[:, :10].any()
    assert detached[:, 10:].any()
    assert whole[:, :10].any()


@pytest.mark.slow
# The compiler looks at gradients of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_models_compute_the_same():
    model, inputs = lora(tiny_base(num_hidden_layers=1, dtype=torch.float32)), batch()
    plan = SparsityPlan(mlp={"0": 0.6}, qk={"0": 0.5}, vo={"0": 0.5}, start=0)
    with sparsify(model, plan):
        expected = gradients(model, inputs)
        compiled = torch.compile(model, backend="aot_eager")
        for seed in (0, 1):
            inputs = batch(seed=seed)
            got = compiled(**inputs)
            if seed == 0:
                torch.testing.assert_close(got.loss.detach(), expected[0])
        model.zero_grad()
        compiled(**batch()).loss.backward()
        for name, parameter in model.named_parameters():
            if name in expected[2]:
                torch.testing.assert_close(parameter.grad, expected[2][name], rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_four_bit_weights_are_sliced_dequantised(monkeypatch):
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit, Params4bit

    model = tiny_base(dtype=torch.float32, hidden_size=64, intermediate_size=128)
    dense = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if not name.endswith("_proj"):
            continue
        four = Linear4bit(
            module.in_features,
            module.out_features,
            bias=False,
            quant_type="nf4",
            compute_dtype=torch.float32,
            compress_statistics="q_proj" in name,
        )
        four.weight = Params4bit(
            module.weight.data,
            requires_grad=False,
            quant_type="nf4",
            compress_statistics="q_proj" in name,
            module=four,
        )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, four.to("cpu"))
        weight = dequantize_4bit(four.weight.data, four.weight.quant_state)
        dense.get_submodule(name).weight.data = weight.view_as(module.weight)
    inputs = batch()
    torch.manual_seed(1)
    one = lora(model)
    torch.manual_seed(1)
    other = lora(dense)
    for name, parameter in other.named_parameters():
        if "lora_" in name:
            parameter.data = one.get_parameter(name).data.clone()
    with sparsify(one, PLAN), sparsify(other, PLAN):
        assert_same(gradients(one, inputs), gradients(other, inputs), 1e-4)


@renamed
def test_trl_trains_with_the_callback(tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from tiny import tiny_tokenizer

    rows = Dataset.from_list(
        [
            {"input_ids": row.tolist(), "labels": [-100] * 8 + row.tolist()[8:]}
            for row in batch(rows=8, padding="none")["input_ids"]
        ]
    )
    options = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "bf16": False,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    model = lora(tiny_base(dtype=torch.float32), ATTENTION + MLP)
    callback = SparseComputeCallback(PLAN.updated({"start": 0.5}))
    trainer = SFTTrainer(
        model,
        SFTConfig(**options),
        train_dataset=rows,
        processing_class=tiny_tokenizer(),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
        callbacks=[callback],
    )
    trainer.train()
    tally = callback.handle.tally
    assert tally.tokens == 4 * 4 * 14
    # Two of four steps, and seven of fourteen tokens in them: the first and those that predict the
    # six learnt ones are dense.
    assert tally.sparse_tokens == 2 * 4 * 7
    assert not any("forward" in m.__dict__ for m in model.get_base_model().model.modules())
    trainer.args.packing = True
    with pytest.raises(SettingError, match="packing=False"):
        trainer.train()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lora(tiny_base(), ATTENTION, use_dora=True, lora_dropout=0.1), "set dropout=0"),
        (lambda: peft(ShiraConfig(r=2, target_modules=["q_proj"])), "base layer"),
        (
            lambda: get_peft_model(
                tiny_base(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
            ),
            "learnt tokens in front",
        ),
        (lambda: tiny_base().requires_grad_(True), "only frozen ones"),
        (lambda: torch.nn.Linear(2, 2), "a Linear is no transformers model"),
        (lambda: tiny_base(hidden_act="gelu"), "activation 'gelu' is not supported"),
    ],
    ids=["dora-dropout", "shira", "prompt", "full", "no model", "gelu"],
)
def test_what_cannot_be_sliced_is_refused_by_name(make, words):
    model = make()
    with pytest.raises(GossamerError, match=words):  # noqa: SIM117
        with sparsify(model, PLAN):
            gradients(model.train(), batch())


def test_merged_and_double_use_are_refused():
    model = lora(tiny_base())
    with sparsify(model, PLAN), pytest.raises(SettingError, match="already"):
        sparsify(model, PLAN)
    model.merge_adapter()
    with pytest.raises(GossamerError, match="is merged into its base"):
        sparsify(model, PLAN)


def test_other_families_are_refused():
    config = AutoConfig.for_model(
        "gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=VOCAB, bos_token_id=1, eos_token_id=2
    )
    with pytest.raises(GossamerError, match="models of type 'gpt2' are not supported"):
        sparsify(AutoModelForCausalLM.from_config(config), PLAN)
