"""The table of methods: what each is called, where it lives, and what it is in one line.

A method is imported when it is asked for, with torch and PEFT; its settings, which need neither,
stand in the module `settings` beside it, so names and settings are checked at once. To add a
method, add a row.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from gossamer.errors import UnknownNameError
from gossamer.methods.common.learning_rate import DefaultRate
from gossamer.methods.common.method import Method
from gossamer.methods.common.settings import MethodSettings

TABLE: dict[str, tuple[str, str]] = {
    "adalora": (
        "gossamer.methods.adalora:Adalora",
        "LoRA whose ranks move to the layers that matter most while it learns",
    ),
    "bitfit": (
        "gossamer.methods.bitfit:Bitfit",
        "only the biases learn; for models that have some",
    ),
    "direft": (
        "gossamer.methods.reft.method:Direft",
        "LoReFT without orthogonality and difference (the paper's DiReFT); cheaper",
    ),
    "dora": (
        "gossamer.methods.lora:Dora",
        "LoRA plus a trainable magnitude per output; often better at small ranks, slower",
    ),
    "federa": (
        "gossamer.methods.pissa:Federa",
        "the initialisation of federated FeDeRA; the same as pissa",
    ),
    "full": (
        "gossamer.methods.full:Full",
        "all weights learn; the result is a whole model, not an adapter",
    ),
    "houlsby": (
        "gossamer.methods.bottleneck.method:Houlsby",
        "small networks behind attention and MLP; cannot be merged, slows inference",
    ),
    "ia3": (
        "gossamer.methods.ia3:Ia3",
        "rescales keys, values and MLP activations; very few weights",
    ),
    "lamda": (
        "gossamer.methods.lamda.method:Lamda",
        "a small matrix between singular vectors learns; very few parameters",
    ),
    "lamda_pp": (
        "gossamer.methods.lamda.method:LamdaPp",
        "LaMDA with ranks by the spectra of the weights, under one budget",
    ),
    "ln_tuning": (
        "gossamer.methods.ln_tuning:LnTuning",
        "only the weights of the normalisation layers learn",
    ),
    "lora": (
        "gossamer.methods.lora:Lora",
        "low-rank adapter on linear layers; small, fast, the usual choice",
    ),
    "loreft": (
        "gossamer.methods.reft.method:Loreft",
        "edits hidden states at prompt positions in a learnt subspace; very few parameters",
    ),
    "loraprune": (
        "gossamer.methods.loraprune.method:Loraprune",
        "prunes whole channels and heads while LoRA learns; the result is a smaller model",
    ),
    "lorta": (
        "gossamer.methods.lorta.method:Lorta",
        "one low-rank tensor for the attention of all layers; the smallest low-rank adapter",
    ),
    "meft": (
        "gossamer.methods.meft.method:Meft",
        "adapters in a model made reversible, which keeps few activations; cannot be merged",
    ),
    "nodireft": (
        "gossamer.methods.reft.method:Nodireft",
        "direft under the name that the authors' library gives it",
    ),
    "p_tuning": (
        "gossamer.methods.soft_prompts:PTuning",
        "trainable embeddings in front of the text, made by a small network",
    ),
    "pfeiffer": (
        "gossamer.methods.bottleneck.method:Pfeiffer",
        "small networks behind the MLP only; cannot be merged, slows inference",
    ),
    "pissa": (
        "gossamer.methods.pissa:Pissa",
        "LoRA started from the weight's largest singular values; learns as fast at a lower rate",
    ),
    "prefix_tuning": (
        "gossamer.methods.soft_prompts:PrefixTuning",
        "trainable keys and values in front of the text, in every layer",
    ),
    "prompt_tuning": (
        "gossamer.methods.soft_prompts:PromptTuning",
        "trainable embeddings in front of the text; tiny, slow to learn, weak on small models",
    ),
    "qlora": (
        "gossamer.methods.qlora:QLora",
        "LoRA on a 4-bit base; saves memory on large models",
    ),
    "rslora": (
        "gossamer.methods.lora:RsLora",
        "LoRA scaled by alpha / sqrt(rank); for ranks of 64 and more",
    ),
    "sherl": (
        "gossamer.methods.sherl.method:Sherl",
        "a network beside frozen early layers learns; a fraction of the activation memory",
    ),
    "shira": (
        "gossamer.methods.shira:Shira",
        "trains a fixed sparse set of the weights' entries; high rank, easy to swap",
    ),
    "slora": (
        "gossamer.methods.slora.method:Slora",
        "LoRA that begins with what a short sparse fine-tuning learnt",
    ),
    "smt": (
        "gossamer.methods.smt.method:Smt",
        "trains the blocks of weights that matter most; computes only their gradients",
    ),
    "sparse_lora": (
        "gossamer.methods.sparse_lora.method:SparseLora",
        "low-rank update seen through a sparse mask; about 1 % of each matrix changes",
    ),
    "sparsegrad": (
        "gossamer.methods.sparsegrad.method:SparseGrad",
        "trains MLP weights by the few largest entries of their gradient in a learnt basis",
    ),
    "velora": (
        "gossamer.methods.velora:Velora",
        "LoRA that keeps less of its inputs for the backward pass; saves activation memory",
    ),
}
"""Name -> (module and class, one line for lists of methods). The settings of a class `X` are the
class `XSettings` of the module `settings` in the same folder."""

ADDED: dict[str, type[Method[Any]]] = {}
"""Methods that others have registered, by name."""

M = TypeVar("M", bound=type[Method[Any]])


def register(method: M) -> M:
    """Add a method of another package under its `name`, as a class decorator.

    Raises `ValueError` if the name is taken by another class.
    """
    name = method.name
    known = TABLE[name][0] if name in TABLE else ADDED.setdefault(name, method)
    if known is not method:
        raise ValueError(f"method '{name}' is registered twice: {known} and {method}")
    return method


def names() -> list[str]:
    """Return all names, sorted."""
    return sorted({*TABLE, *ADDED})


def summary(name: str) -> str:
    """Say what the method is, in one line; raises `UnknownNameError` naming the nearest."""
    _check(name)
    return ADDED[name].summary if name in ADDED else TABLE[name][1]


def find(name: str) -> type[Method[Any]]:
    """Import the method of that name; raises `UnknownNameError` naming the nearest."""
    _check(name)
    if name in ADDED:
        return ADDED[name]
    module, _, method = TABLE[name][0].partition(":")
    found: type[Method[Any]] = getattr(import_module(module), method)
    return found


def settings_type(name: str) -> type[MethodSettings]:
    """Return the class of a method's settings; the method itself is not imported.

    Raises `UnknownNameError`.
    """
    _check(name)
    if name in ADDED:
        return ADDED[name].settings_type
    module, _, method = TABLE[name][0].partition(":")
    found: type[MethodSettings] = getattr(
        import_module(f"{module.rpartition('.')[0]}.settings"), f"{method}Settings"
    )
    return found


def default_rate(name: str) -> DefaultRate:
    """Return the default learning rate of a method; raises `UnknownNameError`."""
    return settings_type(name).default_learning_rate


def parse_settings(name: str, values: Mapping[str, Any]) -> MethodSettings:
    """Build the settings of a method from plain values; the method is not imported.

    Raises `UnknownNameError`, or `SettingError` naming key, value and remedy.
    """
    return settings_type(name).parse(values, where=f"method '{name}'")


def _check(name: str) -> None:
    if name not in TABLE and name not in ADDED:
        raise UnknownNameError.among("method", name, names())
