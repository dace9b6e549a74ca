"""A load opens the config of an adapter once and parses it once."""

import json
import os
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gossamer.adapters import config
from gossamer.adapters.inspect import inspect
from gossamer.adapters.kinds.table import KINDS
from gossamer.adapters.load import load_adapter
from gossamer.adapters.merge import merge_into

Q = "base_model.model.layers.0.self_attn.q_proj"
FACTORS = {f"{Q}.lora_A.weight": (2, 6), f"{Q}.lora_B.weight": (4, 2)}
EDIT = "base_model.model.layers.0.reft_"
SIDE = "base_model.model.layers.0.sherl_side."
BESIDE = "base_model.model.layers.0.meft_"
ADAPTERS = {
    "lora": ({"peft_type": "LORA", "r": 2}, FACTORS),
    "dora": (
        {"peft_type": "LORA", "r": 2, "use_dora": True},
        {**FACTORS, f"{Q}.lora_magnitude_vector": (4,)},
    ),
    "ia3": ({"peft_type": "IA3"}, {f"{Q}.ia3_l": (4, 1)}),
    "shira": ({"peft_type": "SHIRA"}, {f"{Q}.shira_indices": (2, 3), f"{Q}.shira_weight": (3,)}),
    "reft": (
        {
            "peft_type": "GOSSAMER_REFT",
            "variant": "loreft",
            "first_positions": 1,
            "last_positions": 1,
        },
        {EDIT + "rotate": (2, 6), EDIT + "weight": (2, 6), EDIT + "bias": (2,)},
    ),
    "mixed": (
        {"peft_type": "LORA", "r": 2, "bias": "lora_only"},
        {**FACTORS, f"{Q}.base_layer.bias": (4,)},
    ),
    "vector": ({"peft_type": "BEFT"}, {f"{Q}.beft_bias": (1, 4)}),
    "tokens": (
        {"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 1]},
        {"base_model.model.embed_tokens.trainable_tokens_delta": (2, 6)},
    ),
    "bottleneck": (
        {"peft_type": "GOSSAMER_BOTTLENECK", "width": 2},
        {
            f"{Q}.bottleneck_down.weight": (2, 4),
            f"{Q}.bottleneck_down.bias": (2,),
            f"{Q}.bottleneck_up.weight": (4, 2),
            f"{Q}.bottleneck_up.bias": (4,),
        },
    ),
    "side": (
        {
            "peft_type": "GOSSAMER_SHERL", "form": "linear", "skip": "whole", "layers": [0],
            "late_layers": 1,
        },
        {
            f"{SIDE}fc1_weight": (2, 3, 6), f"{SIDE}fc1_bias": (2, 3), f"{SIDE}attn_weight": (1, 3),
            f"{SIDE}attn_bias": (1,), f"{SIDE}out_weight": (6, 3), f"{SIDE}out_bias": (6,),
        },
    ),
    "streams": (
        {
            "peft_type": "GOSSAMER_MEFT", "variant": "meft1", "lam": 0.5, "beta": 1.0,
            "residual": "shared", "activation": "gelu", "stream_dtype": "float64",
            "reversible_layers": 1,
        },
        {
            f"{BESIDE}{half}_{part}": shape
            for half in ("f", "g")
            for part, shape in {
                "down.weight": (2, 6), "down.bias": (2,), "up.weight": (6, 2), "up.bias": (6,)
            }.items()
        },
    ),
    "prompt": (
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5},
        {"prompt_embeddings": (5, 6)},
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, request):
    fields, shapes = ADAPTERS[request.param]
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    return tmp_path


class Opened:
    """Counts how often a file of this name is opened, in whatever way."""

    def __init__(self, name):
        self.name = name
        self.count = 0
        self.is_on = False
        sys.addaudithook(self._note)

    def _note(self, event, args):
        if self.is_on and event == "open" and isinstance(args[0], str | os.PathLike):
            self.count += os.path.basename(args[0]) == self.name


# An audit hook stays until the process ends.
OPENED = Opened("adapter_config.json")


@pytest.fixture
def counts(monkeypatch):
    """[opened, parsed] so far."""
    parsed = []
    parse = config.parse
    monkeypatch.setattr(config, "parse", lambda *args: parsed.append(1) or parse(*args))
    OPENED.count, OPENED.is_on = 0, True
    yield lambda: [OPENED.count, len(parsed)]
    OPENED.is_on = False


@pytest.mark.parametrize("folder", ADAPTERS, indirect=True)
def test_loading_and_describing_open_and_parse_the_config_once_each(folder, counts):
    loaded = load_adapter(folder)
    assert counts() == [1, 1]
    assert inspect(folder).kind == loaded.kind
    assert counts() == [2, 2]


@pytest.mark.parametrize(
    "folder", ["lora", "dora", "ia3", "shira", "mixed", "vector"], indirect=True
)
def test_merging_opens_and_parses_the_config_once(folder, counts):
    model = nn.ModuleDict(
        {
            "layers": nn.ModuleList(
                [nn.ModuleDict({"self_attn": nn.ModuleDict({"q_proj": nn.Linear(6, 4)})})]
            )
        }
    )
    assert merge_into(model, folder) == 1
    assert counts() == [1, 1]


def test_there_is_a_case_for_every_kind():
    assert len(ADAPTERS) == len(KINDS)
