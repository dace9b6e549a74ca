"""Rows of PEFT's parametrised tests for Gossamer's tuners; a new tuner is a new entry of ROWS."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import BeftConfig, IA3Config, LoraConfig, MissConfig, ShiraConfig, VeraConfig

from gossamer.tuners import (
    BottleneckConfig,
    LamdaConfig,
    LortaConfig,
    MeftConfig,
    ReftConfig,
    SherlConfig,
    SloraConfig,
    SmtConfig,
    SparseLoraConfig,
)

BASELINES = (LoraConfig, ShiraConfig, VeraConfig, MissConfig, IA3Config, BeftConfig)
"""PEFT's own, which show that the models and this harness are sound."""
BEHIND = r".*\.(o_proj|down_proj|out_proj|fc2|fc_out|c_proj|wo|dense)"
ONLY_MLP = r".*\.(down_proj|fc2|fc_out|wo|output\.dense)"


@dataclass(frozen=True)
class Row:
    """A method as a user of the plug-in writes it."""

    config: type
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Beside the targets."""
    small: Mapping[str, Any] = field(default_factory=dict)
    """What differs where a layer has two outputs only."""
    targets: Any = "all-linear"
    """`target_modules` on a model of transformers; None: it has none to be set."""
    plain: bool = True
    """Whether it adapts single linear layers of any module."""
    seeded: bool = False
    """Whether two adapters need different seeds to differ."""

    def small_settings(self) -> dict[str, Any]:
        """Its settings where a layer has two outputs only."""
        return {**self.settings, **self.small}

    def is_of(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether these settings, of its class, can be its own."""
        return any(
            all(kwargs.get(key) == value for key, value in own.items())
            for own in (self.settings, self.small_settings())
        )


_SPARSE = {"density": 0.3}
_REFT = {"rank": 4, "start": "identity"}
ROWS = {
    "smt": Row(SmtConfig, {"density": 0.3, "block_size": 4}, seeded=True),
    "slora": Row(SloraConfig, _SPARSE, seeded=True),
    "slora+residual": Row(
        SloraConfig,
        {**_SPARSE, "r": 4, "lora_alpha": 8.0},
        {"r": 2, "lora_alpha": 4.0},
        seeded=True,
    ),
    "sparse_lora": Row(SparseLoraConfig, {**_SPARSE, "r": 4, "lora_alpha": 8.0}, seeded=True),
    "lamda": Row(LamdaConfig, {"rank": 4, "alpha": 4.0}, {"rank": 2, "alpha": 2.0}),
    "lamda_pp": Row(
        LamdaConfig,
        {"rank": 4, "alpha": 4.0, "allocation": "spectrum"},
        {"rank": 2, "alpha": 2.0},
    ),
    "houlsby": Row(BottleneckConfig, {"width": 4}, targets=BEHIND),
    "pfeiffer": Row(BottleneckConfig, {"width": 4, "activation": "gelu"}, targets=ONLY_MLP),
    "lorta": Row(LortaConfig, {"rank": 4, "alpha": 4.0}, targets=None, plain=False),
    "loreft": Row(ReftConfig, {"variant": "loreft", **_REFT}, targets=None, plain=False),
    "direft": Row(ReftConfig, {"variant": "direft", **_REFT}, targets=None, plain=False),
    "nodireft": Row(ReftConfig, {"variant": "nodireft", **_REFT}, targets=None, plain=False),
    "meft": Row(MeftConfig, {"width": 4}, targets=None, plain=False),
    "sherl": Row(SherlConfig, {"reduction": 2}, targets=None, plain=False),
}
"""By name of the method."""
WHOLE_BLOCKS = (MeftConfig, ReftConfig, SherlConfig)
"""Those that act on decoder blocks and refuse the names of layers."""
OURS = tuple(dict.fromkeys(row.config for row in ROWS.values()))
PLAIN_LINEAR = tuple(dict.fromkeys(row.config for row in ROWS.values() if row.plain))
_PLAIN = {name: row for name, row in ROWS.items() if row.plain}


def label(config_cls: type, kwargs: Mapping[str, Any] | None = None) -> str:
    """Name the method of a row; of settings that fit several the one that asks for most."""
    if config_cls in BASELINES:
        return "PEFT " + config_cls.__name__.removesuffix("Config")
    own = {name: row for name, row in ROWS.items() if row.config is config_cls}
    fitting = [name for name, row in own.items() if row.is_of(kwargs or {})]
    return max(fitting, key=lambda name: len(own[name].settings)) if fitting else next(iter(own))


def custom_rows() -> list[tuple]:
    """test_name, model_id, config_cls, config_kwargs."""
    targets = {
        "lin0": "lin0",
        "[lin0]": ["lin0"],
        "[lin1]": ["lin1"],
        "[lin0, lin1]": ["lin0", "lin1"],
    }
    rows = []
    for name, row in _PLAIN.items():
        own = row.small_settings()
        for text, target in targets.items():
            rows.append((f"{name} {text}", "MLP", row.config, {"target_modules": target, **own}))
        saved = {"target_modules": ["lin1"], "modules_to_save": ["lin0"], **own}
        rows.append((f"{name} [lin1] + saved lin0", "MLP", row.config, saved))
    return rows


def several_rows() -> list[tuple]:
    """test_name, tuner_method, config_cls, config_kwargs_1, config_kwargs_2."""
    rows = []
    for name, row in _PLAIN.items():
        first = {**row.small_settings(), "init_weights": False}
        second = {**first, "seed": 1} if row.seeded else first
        for text, target in (("same", "lin0"), ("different", "lin1")):
            rows.append(
                (
                    f"{name} {text}", name, row.config, {"target_modules": ["lin0"], **first},
                    {"target_modules": [target], **second},
                )
            )  # fmt: skip
    return rows


def model_rows(task: str | None) -> list[tuple]:
    """config_cls, config_kwargs for models of transformers."""
    rows = []
    for row in ROWS.values():
        kwargs = dict(row.settings)
        if task is not None:
            kwargs["task_type"] = task
        if row.targets is not None:
            kwargs["target_modules"] = row.targets
        rows.append((row.config, kwargs))
    return rows


def quantization_rows() -> list[tuple]:
    """config_cls, config_kwargs for quantised models."""
    return [
        (
            cls,
            kwargs if cls in WHOLE_BLOCKS else {**kwargs, "target_modules": ["q_proj", "v_proj"]},
        )
        for cls, kwargs in model_rows(None)
    ]
