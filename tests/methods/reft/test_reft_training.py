"""ReFT while it learns: through TRL, through `tune`, saved, loaded and resumed."""

import json

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from reft_models import load, reft, tokens
from runs import quiet_tune
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from gossamer.errors import UsageError
from gossamer.methods.reft.model import ReftConfig

# TRL sets the old name of the argument itself.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")

ROWS = [{"prompt": f"What is {i} + 1?", "completion": f"It is {i + 1}."} for i in range(16)]


def sft(folder, output, config=None, **options):
    """A trained `SFTTrainer` over ROWS."""
    values = {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-2,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        **options,
    }
    torch.manual_seed(0)
    trainer = SFTTrainer(
        model=load(folder),
        args=SFTConfig(output_dir=str(output), **values),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=config or ReftConfig(rank=4),
    )
    trainer.train()
    return trainer


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trl_trains_it_and_plain_peft_loads_what_is_saved(tiny_model, tmp_path):
    trainer = sft(tiny_model, tmp_path / "run", max_steps=4)
    found = losses(trainer)
    assert found[-1] < found[0] - 0.05
    trainer.save_model(tmp_path / "adapter")
    ids = tokens()
    trained = trainer.model.eval()(input_ids=ids).logits
    for low in (False, True):
        again = PeftModel.from_pretrained(
            load(tiny_model), tmp_path / "adapter", low_cpu_mem_usage=low
        )
        assert torch.equal(again.eval()(input_ids=ids).logits, trained)
    # Loading and saving again moves no bit of R.
    again.save_pretrained(tmp_path / "twice", save_embedding_layers=False)
    first, second = (
        load_file(tmp_path / part / "adapter_model.safetensors") for part in ("adapter", "twice")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_gradient_checkpointing_changes_no_loss(tiny_model, tmp_path):
    plain = losses(sft(tiny_model, tmp_path / "plain"))
    for reentrant in (False, True):
        checkpointed = sft(
            tiny_model,
            tmp_path / f"checkpointed-{reentrant}",
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        )
        assert losses(checkpointed) == pytest.approx(plain, abs=1e-5)


def test_blocks_may_be_worked_through_again_after_the_call(tiny_model):
    ids = tokens(rows=1)
    labels = ids.clone()
    labels[:, :9] = -100
    gradients = []
    for again in (False, True):
        model = reft(tiny_model).train()
        if again:
            for block in model.get_base_model().model.layers:
                inner = block.forward

                def forward(hidden, inner=inner, **kwargs):
                    return torch.utils.checkpoint.checkpoint(
                        inner, hidden, use_reentrant=False, **kwargs
                    )

                block.forward = forward
        model(input_ids=ids, labels=labels).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_only_blocks_above_the_first_edit_are_worked_through_backwards(tiny_model):
    model = reft(tiny_model, layers=[2]).train()
    seen = []
    for index, block in enumerate(model.get_base_model().model.layers):
        block.register_forward_hook(
            lambda m, a, out, index=index: seen.append((index, out.requires_grad))
        )
    ids = tokens()
    model(input_ids=ids, labels=ids)
    assert seen == [(0, False), (1, False), (2, True)]


def test_trls_packed_rows_are_refused(tiny_model, tmp_path):
    with pytest.raises(UsageError, match="packing=False"):
        sft(tiny_model, tmp_path, packing=True, max_length=64, packing_strategy="bfd")


def test_a_bfloat16_base_keeps_the_edit_in_float32(tiny_model):
    model = get_peft_model(load(tiny_model, torch.bfloat16), ReftConfig(rank=4))
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learnt} == {torch.float32}
    ids = tokens()
    out = model(input_ids=ids, labels=ids)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in learnt)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=ids, labels=ids).loss.backward()


def test_a_4_bit_base(tiny_model):
    pytest.importorskip("bitsandbytes")
    from gossamer.basemodel.load import load_model
    from gossamer.methods.qlora import freeze_quantized, nf4_config

    base = load_model(
        tiny_model,
        dtype=torch.float32,
        quantization_config=nf4_config("float32", double_quant=True),
    )
    model = get_peft_model(freeze_quantized(base), ReftConfig(rank=4))
    ids = tokens()
    model(input_ids=ids, labels=ids).loss.backward()
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.abs().sum() > 0 for p in learnt)


def run(model, rows, output, **settings):
    values = {"method": "loreft", "rank": 4, "learning_rate": 2e-2, "batch_size": 4, **settings}
    return quiet_tune(model, rows, output, **values)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("method", ["loreft", "direft"])
def test_a_resumed_run_equals_the_undisturbed_one(method, tiny_model, rows, tmp_path):
    settings = {"method": method, "scheduler": "constant", "warmup": 0}
    long = run(tiny_model, rows, tmp_path / "long", max_steps=6, **settings)
    run(tiny_model, rows, tmp_path / "short", max_steps=3, **settings)
    grown = quiet_tune(output=tmp_path / "short", resume=True, max_steps=6)
    one, other = weights(long.output), weights(grown.output)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_tune_leaves_behind(tiny_model, rows, tmp_path):
    result = run(tiny_model, rows, tmp_path / "run", max_steps=4, tied=False, layers=[0, 2])
    config = json.loads((result.output / "adapter_config.json").read_text())
    wanted = {
        "peft_type": "GOSSAMER_REFT",
        "variant": "loreft",
        "rank": 4,
        "layers": [0, 2],
        "first_positions": 7,
        "last_positions": 7,
        "tied": False,
    }
    assert wanted.items() <= config.items()
    found = weights(result.output)
    names = ("rotate", "weight", "bias", "last_rotate", "last_weight", "last_bias")
    assert set(found) == {
        f"base_model.model.model.layers.{layer}.reft_{name}" for layer in (0, 2) for name in names
    }
    for key, value in found.items():
        if key.endswith("rotate"):
            assert (value @ value.T - torch.eye(4)).abs().max() < 1e-5
    model = PeftModel.from_pretrained(load(tiny_model), result.output)
    assert not torch.allclose(
        model(input_ids=tokens()).logits, load(tiny_model)(input_ids=tokens()).logits, atol=1e-3
    )
