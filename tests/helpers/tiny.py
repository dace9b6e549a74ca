"""Tiny random base models and adapters for the tests; made on the spot, nothing is downloaded."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from gossamer.methods import MethodContext

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Odd on purpose: grouped-query heads, heads * head_dim != hidden, MLP width no multiple of either.
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def spell(piece: bytes) -> str:
    """`piece` in the printable characters that stand for bytes in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(b) if b in printable else chr(256 + others.index(b)) for b in piece)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: one token per byte and three special tokens; any text round-trips."""
    return byte_level_tokenizer()


def byte_level_tokenizer(pieces: Sequence[bytes] = ()) -> PreTrainedTokenizerFast:
    """The same with tokens for `pieces`, which it decodes and never makes of a text."""
    # The 256 printable stand-ins of bytes, after the special tokens.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *alphabet, *map(spell, pieces)])
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def make_tiny_model(folder: Path, *, model_type: str = "llama", seed: int = 0, **shape) -> Path:
    """Write a random model of the family `model_type` with its tokenizer to `folder`."""
    tokenizer = tiny_tokenizer()
    settings = {**SHAPE, "vocab_size": len(tokenizer), **shape}
    config = AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than the usual initialisation, so that logits differ plainly between tokens.
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.12)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def module_shapes(model_folder: Path) -> dict[str, tuple[int, int]]:
    """(h_out, h_in) of each linear layer of the decoder, by module path."""
    config = AutoConfig.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_config(config)
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def make_lora(
    folder: Path,
    model_folder: Path,
    *,
    rank: int,
    targets: tuple[str, ...] = ALL_LINEAR,
    alpha: float | None = None,
    use_rslora: bool = False,
    rank_pattern: dict[str, int] | None = None,
    alpha_pattern: dict[str, float] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    size: float = 0.4,
    **config_fields,
) -> Path:
    """Write a random LoRA adapter in PEFT's layout, without using PEFT.

    `size` is the scale of the entries of B; with the default an adapter changes the output plainly.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (h_out, h_in) in module_shapes(model_folder).items():
        if name.rsplit(".", 1)[-1] not in targets:
            continue
        r = _pattern_value(rank_pattern or {}, name, rank)
        prefix = f"base_model.model.{name}"
        a = torch.randn(r, h_in, generator=generator) / h_in**0.5
        b = torch.randn(h_out, r, generator=generator) * size / r**0.5
        weights[f"{prefix}.lora_A.weight"] = a.to(dtype)
        weights[f"{prefix}.lora_B.weight"] = b.to(dtype)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model_folder),
        "r": rank,
        "lora_alpha": alpha if alpha is not None else rank,
        "target_modules": sorted(targets),
        "use_rslora": use_rslora,
        "rank_pattern": rank_pattern or {},
        "alpha_pattern": alpha_pattern or {},
        "bias": "none",
        "fan_in_fan_out": False,
        **config_fields,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _pattern_value(pattern: dict, name: str, default):
    for key, value in pattern.items():
        if name == key or name.endswith(f".{key}"):
            return value
    return default


def make_context(folder, **changes):
    """What a run of ten steps on the base in `folder` tells its method."""
    values = {
        "model_name": "some-name",
        "base_folder": folder,
        "base_fingerprint": "f" * 64,
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
        "total_steps": 10,
    }
    return MethodContext(**{**values, **changes})
