"""Tiny random models of many families, which is what the table of the docs lists."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tiny import tiny_tokenizer

SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
WINDOW = {"sliding_window": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
MHA = {"num_key_value_heads": 4}
FAMILIES = {
    "mistral": WINDOW,
    "qwen2": {**WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "gemma2": {
        **WINDOW,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **WINDOW, "head_dim": 16, "num_hidden_layers": 3, "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 24,
    },
    "gpt_oss": {**WINDOW, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "smollm3": {
        "num_hidden_layers": 4, "no_rope_layer_interval": 2, "use_sliding_window": False,
    },
    "olmo2": {},
    "granite": {
        "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "glm4": {"head_dim": 16, "partial_rotary_factor": 0.5},
    "phi3": {**WINDOW, "original_max_position_embeddings": 256},
    "stablelm": {"use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.5},
    "cohere2": {
        **WINDOW, "num_hidden_layers": 4, "sliding_window_pattern": 2, "logit_scale": 0.5,
    },
    "qwen3_moe": {**EXPERTS, "head_dim": 16, "num_experts": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": MHA,
    "starcoder2": WINDOW,
    "qwen3": {"head_dim": 16},
}  # fmt: skip
"""What the config of each says beside `SIZES`."""
MORE = {
    "llama": {},
    "gemma": {"head_dim": 16},
    "olmo": {"clip_qkv": 1.0},
    "olmo3": {**WINDOW, "num_hidden_layers": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "glm": {"head_dim": 16, "partial_rotary_factor": 0.5},
    "glm4_moe": {**EXPERTS, "head_dim": 16},
    "phi": {},
    "qwen2_moe": {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_neox": MHA,
    "opt": {**MHA, "ffn_dim": 40, "word_embed_proj_dim": 32},
    "exaone4": {**WINDOW, "num_hidden_layers": 4, "sliding_window_pattern": 2},
    "ministral": {**WINDOW, "head_dim": 16},
    "nemotron": {},
    "arcee": {},
    "seed_oss": {"head_dim": 16},
    "ernie4_5": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "apertus": {},
    "helium": {"head_dim": 8},
}
"""Families that are tried with the slow tests only."""


def make_family(folder: Path, family: str, seed: int = 0, **fields) -> Path:
    """Write a random model of `family`, biases, norms and sinks random too."""
    settings = {**SIZES, **{**FAMILIES, **MORE}.get(family, {}), **fields}
    config = AutoConfig.for_model(family, **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15)
            elif "bias" in name or "sinks" in name:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def linear_layers(model) -> dict[str, nn.Module]:
    """The layers that adapters can act on, GPT-2's transposed ones too."""
    output = model.get_output_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not output
    }


def make_lora_of_all(folder: Path, model, seed: int = 0) -> Path:
    """Write a LoRA adapter of rank 3 for every linear layer of `model`, and merge it there."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, module in linear_layers(model).items():
        is_transposed = type(module).__name__ == "Conv1D"
        h_out, h_in = reversed(module.weight.shape) if is_transposed else module.weight.shape
        a = torch.randn(3, h_in, generator=generator) / h_in**0.5
        b = torch.randn(h_out, 3, generator=generator) * 0.3
        tensors[f"base_model.model.{path}.lora_A.weight"] = a
        tensors[f"base_model.model.{path}.lora_B.weight"] = b
        change = b @ a
        module.weight.data += change.T if is_transposed else change
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 3, "target_modules": "all-linear"}
    has_transposed = any(
        type(module).__name__ == "Conv1D" for module in linear_layers(model).values()
    )
    config["fan_in_fan_out"] = has_transposed
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
