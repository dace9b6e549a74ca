"""Hostile adapters, made of good ones; one seed always makes the same."""

import copy
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drafts import CONFIG, ITEM_BYTES, WEIGHTS, Draft, Piece, lay_out
from mutate_json import NUMBERS, TEXTS, Raw, hostile_value, many, mutate, thaw, to_text
from mutate_tensors import change_tensor, damage, lie

PATTERNS = [
    ".?" * 40 + "!", "(a|aa)+$", "([a-z._0-9]*|\\\\)*!", "(..|.)*x", "(.{0,900}){0,900}!",
    "(?P<n>", "\\1",
    "(?<=a)b", "(?i)Q_PROJ", "^", "$", ".*" * 3 + "v_proj", "[^\\W\\d]+v_proj",
    "(" * 300, ")" * 300, "",
    "a" * 100_000, "q_proj|v_proj|" * 200, "(q|v)_proj", ".*\\.v_proj", "layers\\.[0-9]+\\..*",
    "\\N{BULLET}",
    "(?#x)", "(?(1)a|b)", "v_proj{2147483648}", "\ud800", "[]", "x*" * 30, "(?:(?:a*)*)*", "\\",
    "٣",
]  # fmt: skip
TYPES = [
    "LORA", "lora", "IA3", "SHIRA", "GOSSAMER_SMT", "GOSSAMER_REFT", "PROMPT_TUNING", "P_TUNING",
    "PREFIX_TUNING", "ADALORA", "GOSSAMER_LORTA", "GOSSAMER_SPARSE_LORA", "GOSSAMER_SHERL",
    "GOSSAMER_MEFT", "XLORA", "L" * 70_000, "",
]  # fmt: skip
# Fields that mean something to some kind of adapter, with values that are wrong in their own way.
FIELDS = {
    "peft_type": TYPES,
    "r": [0, -1, 1, 2, 3.0, True, "8", 2**31, 10**30],
    "lora_alpha": [0, -3, 1e308, -1e308, 1e39, 1e-300, 10**400, Raw("NaN"), "16", 0.1],
    "target_modules": [
        "all-linear",
        [],
        many('"v_proj"', 50_000),
        ["("],
        "(",
        {"q_proj": 1},
        [1, "a"],
    ],
    "use_rslora": [True, 1, "true"],
    "use_dora": [True, False, 1, "yes"],
    "bias": ["all", "lora_only", "none", "nobody"],
    "fan_in_fan_out": [True, 1],
    "modules_to_save": [["lm_head"], [], "lm_head"],
    "layers_to_transform": [[0], [10**9], 3, []],
    "feedforward_modules": [["down_proj"], [], ["v_proj"], "x"],
    "num_virtual_tokens": [0, -1, 1, 5, 16, 5.0, 9000, 2**31, 2**63, 10**30],
    "num_layers": [0, 1, 2, 3, 6, 2**63],
    "num_attention_heads": [0, 1, 2, 4, 2**63],
    "num_transformer_submodules": [0, 2, "1", 10**30],
    "token_dim": [0, 1, 10**30],
    "variant": ["loreft", "direft", "nodireft", "meft1", "meft3", "LOREFT", [], {"loreft": 1}],
    "layers": [[0], [1, 0], [0, 0], [-1], [10**30], [True], ["0"], [], 0, many("0", 50_000)],
    "late_layers": [0, 1, 2, -1, 2.0, None, 2**31, 10**30],
    "form": ["gated", "layer_norm", "linear", "GATED", [], {"gated": 1}, 1],
    "skip": ["gated", "whole", [], True],
    "lam": [0, -1, 1e-320, 1e308, 10**400, Raw("NaN"), Raw("Infinity"), "1", True],
    "beta": [0, -1, 1e-320, 1e308, 10**400, Raw("NaN"), "1", True],
    "residual": ["shared", "whole", [], 1],
    "activation": ["gelu", "elu", [], {"relu": 1}],
    "stream_dtype": ["float32", "float64", "float16", []],
    "reversible_layers": [0, 1, 2, 3, -1, 2.0, 2**31, 10**30],
    "first_positions": [0, 1, 3, 500, 2**31, 2**63, 10**30, -1, 1.0],
    "last_positions": [0, 1, 4, 500, 2**31, 2**63, 10**30, -1, True],
    "tied": [True, False, 0, "no"],
    "rank": [0, 1, 2**63],
    "block": [0, 1, 2**63],
    "mask_type": ["random", "other"],
    "base_model_name_or_path": ["/dev/zero", "x" * 70_000, 7, ["a"]],
}
_LARGE_BYTES = 1 << 30


@dataclass(frozen=True)
class HostileAdapter:
    """The files of an adapter that somebody made up."""

    seed: str
    config: bytes | None
    weights: bytes | None
    notes: tuple[str, ...]
    apparent_bytes: int = 0
    """What the weights file claims to hold; most of it is a hole."""

    def write(self, folder: Path) -> None:
        """Make the folder."""
        folder.mkdir(parents=True)
        if self.weights is not None:
            (folder / WEIGHTS).write_bytes(self.weights)
            if self.apparent_bytes:
                os.truncate(folder / WEIGHTS, self.apparent_bytes)
        else:
            (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        if self.config is not None:
            (folder / CONFIG).write_bytes(self.config)

    def __str__(self) -> str:
        return f"adapter of seed {self.seed}: {'; '.join(self.notes)}"


def hostile_adapter(goods: Sequence[Draft], seed: str) -> HostileAdapter:
    """The adapter that `seed` makes of one of `goods`."""
    rng = random.Random(seed)
    draft = copy.deepcopy(rng.choice(goods))
    notes = [draft.name]
    rare = rng.random()
    if rare < 0.01:
        return _hollow(draft, seed, notes, rng)
    if rare < 0.02:
        return HostileAdapter(seed, to_text(draft.config).encode(), None, (*notes, "pickled"))
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        notes.append(_change_config(draft, rng))
    # Most are changed consistently, or nothing would get past the header.
    for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3])):
        notes.append(change_tensor(draft, rng))
    weights = lay_out(draft.header(), draft.data())
    if rng.random() < 0.15:
        weights, note = lie(draft, rng)
        notes.append(note)
    if rng.random() < 0.08:
        weights, note = damage(weights, rng)
        notes.append(f"weights: {note}")
    config = to_text(draft.config).encode()
    if rng.random() < 0.06:
        config, note = damage(config, rng)
        notes.append(f"config: {note}")
    return HostileAdapter(seed, config, weights, tuple(notes))


def _change_config(draft: Draft, rng: random.Random) -> str:
    pick = rng.random()
    if pick < 0.2:
        return _change_patterns(draft, rng)
    if pick < 0.75:
        known = [name for name, _ in draft.config if name in FIELDS]
        name = rng.choice(known if known and rng.random() < 0.8 else list(FIELDS))
        value = rng.choice(FIELDS[name]) if rng.random() < 0.8 else hostile_value(rng)
        draft.set_field(name, value)
        return f"{name} = {to_text(thaw(value))[:60]}"
    return "config: " + mutate(draft.config, rng, names=list(FIELDS))


def _change_patterns(draft: Draft, rng: random.Random) -> str:
    name = rng.choice(["rank_pattern", "alpha_pattern"])
    values = [1, 4, 8, 16, 0.5, *NUMBERS[:6], *TEXTS[:1]]
    if rng.random() < 0.2:
        count = rng.choice([100, 100, 100, 5000])
        pattern = {f"layers.{n}.(q|v)_proj": rng.choice(values) for n in range(count)}
    else:
        pattern = {
            rng.choice(PATTERNS): rng.choice(values) for _ in range(rng.choice([1, 1, 2, 40]))
        }
    draft.set_field(name, pattern)
    return f"{name} = {len(pattern)} of {str(list(pattern)[:2])[:60]}"


def _hollow(draft: Draft, seed: str, notes: list[str], rng: random.Random) -> HostileAdapter:
    """A file of a few kilobytes on the disk that says it holds a gigabyte, all of it described."""
    data = draft.data()
    if rng.random() < 0.5:
        draft.pieces.append(Piece("base_model.model.rest", "U8", [], b""))
    header, last = draft.header(), draft.pieces[-1]
    start = len(data) - len(last.data)
    others = ITEM_BYTES[last.dtype] * math.prod(last.shape[1:])
    first = (_LARGE_BYTES - start) // others
    entry = {
        "dtype": last.dtype,
        "shape": [first, *last.shape[1:]],
        "data_offsets": [start, start + first * others],
    }
    header[-1] = [last.name, thaw(entry)]
    content = lay_out(header, data)
    total = len(content) - len(data) + start + first * others
    config = to_text(draft.config).encode()
    return HostileAdapter(seed, config, content, (*notes, f"{last.name} is a hole"), total)
