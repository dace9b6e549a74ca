"""Gossamer's tuners for PEFT, transformers and TRL.

Importing this module makes `get_peft_model`, `PeftModel.from_pretrained`, `AutoPeftModel` and
transformers' `load_adapter` know the adapters of all of them, and transformers' Auto classes the
models that pruning leaves.
"""

from gossamer.basemodel.pruned import register_all
from gossamer.methods.bottleneck.model import BottleneckConfig
from gossamer.methods.common.peft_tuner import copy_adapter
from gossamer.methods.lamda.model import FreezeColumns, LamdaConfig
from gossamer.methods.lorta.model import LortaConfig
from gossamer.methods.meft.model import MeftConfig
from gossamer.methods.reft.model import ReftConfig
from gossamer.methods.sherl.model import SherlConfig
from gossamer.methods.slora.model import SloraConfig
from gossamer.methods.smt.model import SmtConfig
from gossamer.methods.smt.select import select_blocks
from gossamer.methods.sparse_lora.model import SparseLoraConfig, choose_entries

register_all()

__all__ = [
    "BottleneckConfig",
    "FreezeColumns",
    "LamdaConfig",
    "LortaConfig",
    "MeftConfig",
    "ReftConfig",
    "SherlConfig",
    "SloraConfig",
    "SmtConfig",
    "SparseLoraConfig",
    "choose_entries",
    "copy_adapter",
    "select_blocks",
]
