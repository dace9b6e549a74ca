"""Our tuners in a trainer that knows nothing of us: TRL's own, and PEFT to load what it saves."""

import pytest
import torch
from datasets import Dataset
from method_helpers import base_folder, base_model, logits, probe_batches
from peft import PeftModel
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from gossamer.basemodel.versions import checkpointing_argument
from gossamer.methods.bottleneck.model import BottleneckConfig
from gossamer.methods.lamda.model import FreezeColumns, LamdaConfig
from gossamer.methods.lorta.model import LortaConfig
from gossamer.methods.meft.model import MeftConfig
from gossamer.methods.reft.model import ReftConfig
from gossamer.methods.sherl.model import SherlConfig
from gossamer.methods.slora.model import SloraConfig
from gossamer.methods.smt.model import SmtConfig
from gossamer.methods.smt.select import select_blocks
from gossamer.methods.smt.settings import SmtSettings
from gossamer.methods.sparse_lora.model import SparseLoraConfig

ROWS = [{"prompt": f"What is {i} + 1?", "completion": f" It is {i + 1}."} for i in range(4)]


def smt_config():
    settings = SmtSettings(block_size=8, attention_ratio=0.02)
    blocks = select_blocks(base_model(base_folder("llama")), list(probe_batches(1)), settings)
    return SmtConfig(blocks=blocks)


CONFIGS = {
    "smt": smt_config,
    "slora": lambda: SloraConfig(target_modules="all-linear", density=0.1),
    "sparse_lora": lambda: SparseLoraConfig(target_modules="all-linear", density=0.1, r=4),
    "loreft": lambda: ReftConfig(rank=4),
    "lamda": lambda: LamdaConfig(rank=4),
    "lorta": lambda: LortaConfig(rank=4),
    "meft": lambda: MeftConfig(width=4, reversible_layers=3),
    "sherl": lambda: SherlConfig(late_layers=1),
    "houlsby": lambda: BottleneckConfig(target_modules=["o_proj", "down_proj"], width=4),
}


def make_trainer(config, output, *, callbacks=(), **options):
    folder = base_folder("llama")
    torch.manual_seed(0)
    return SFTTrainer(
        model=base_model(folder),
        args=SFTConfig(
            output_dir=str(output),
            use_cpu=True,
            bf16=False,
            **{checkpointing_argument(): False},
            per_device_train_batch_size=4,
            learning_rate=3e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=False,
            **{"max_steps": 4, **options},
        ),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=config,
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_it_learns_is_saved_and_loaded(name, tmp_path):
    callbacks = [FreezeColumns()] if name == "lamda" else []
    trainer = make_trainer(CONFIGS[name](), tmp_path / "run", callbacks=callbacks)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    trainer.save_model(tmp_path / "saved")
    again = PeftModel.from_pretrained(base_model(base_folder("llama")), tmp_path / "saved")
    assert torch.equal(logits(again), logits(trainer.model))
    assert not torch.allclose(logits(again), logits(base_model(base_folder("llama"))), atol=1e-2)


def test_lamda_without_its_callback_says_so_once(tmp_path):
    with pytest.warns(
        UserWarning, match=r"give the trainer callbacks=\[FreezeColumns\(\)\]"
    ) as seen:
        make_trainer(LamdaConfig(rank=4), tmp_path, max_steps=6).train()
    assert len([found for found in seen if "FreezeColumns" in str(found.message)]) == 1


def test_lamda_that_is_not_to_freeze_needs_no_callback(tmp_path):
    make_trainer(LamdaConfig(rank=4, freeze_share=None), tmp_path, max_steps=6).train()
