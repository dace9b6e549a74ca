"""Tiny random models under the ids that PEFT's tests load from a hub.

Tests that run with the folder of all as their working directory find each id as a relative path.
Nothing is downloaded.
"""

from pathlib import Path

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
BERT = {k: v for k, v in SMALL.items() if k != "tie_word_embeddings"}

# id: (model type, Auto class, settings)
MODELS = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": (
        "opt",
        AutoModelForCausalLM,
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
    # For quantisation: twelve layers, as PEFT counts them.
    "peft-internal-testing/opt-125m": (
        "opt",
        AutoModelForCausalLM,
        {
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("gpt2", AutoModelForCausalLM, GPT),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": (
        "gptj",
        AutoModelForCausalLM,
        {**GPT, "rotary_dim": 4},
    ),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("llama", AutoModelForCausalLM, SMALL),
    "hf-internal-testing/tiny-random-MistralForCausalLM": (
        "mistral",
        AutoModelForCausalLM,
        HEADS,
    ),
    # Tied, as the real one.
    "peft-internal-testing/tiny-dummy-qwen2": (
        "qwen2",
        AutoModelForCausalLM,
        {**GROUPED, "tie_word_embeddings": True},
    ),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": (
        "gemma3_text",
        AutoModelForCausalLM,
        {**HEADS, "tie_word_embeddings": True, "sliding_window": 16},
    ),
    "gossamer-local/tiny-gemma2": (
        "gemma2",
        AutoModelForCausalLM,
        {**HEADS, "tie_word_embeddings": True, "sliding_window": 16},
    ),
    "gossamer-local/tiny-phi3": ("phi3", AutoModelForCausalLM, GROUPED),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "bert",
        AutoModelForSequenceClassification,
        BERT,
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "roberta",
        AutoModelForSequenceClassification,
        BERT,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "llama",
        AutoModelForSequenceClassification,
        {**SMALL, "num_labels": 1, "pad_token_id": 0},
    ),
    "peft-internal-testing/tiny-random-BertModel": ("bert", AutoModel, BERT),
    "peft-internal-testing/tiny-random-RobertaModel": ("roberta", AutoModel, BERT),
    "peft-internal-testing/tiny-random-DebertaModel": ("deberta", AutoModel, BERT),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("deberta-v2", AutoModel, BERT),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        "t5",
        AutoModelForSeq2SeqLM,
        {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4},
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        "bart",
        AutoModelForSeq2SeqLM,
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 128,
        },
    ),
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Make one with a token per byte and three special ones."""
    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*special, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<s>' + m['role'] + '\\n' }}"
        "{% generation %}{{ m['content'] + '</s>\\n' }}{% endgeneration %}{% else %}"
        "{{ '<s>' + m['role'] + '\\n' + m['content'] + '</s>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=template,
    )


def build(root: Path) -> None:
    """Write all models that are not there yet."""
    tok = tokenizer()
    common = {
        "vocab_size": len(tok) + 21,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    for name, (model_type, auto, settings) in MODELS.items():
        folder = root / name
        if (folder / "config.json").is_file():
            continue
        config = AutoConfig.for_model(model_type, **{**common, **settings})
        torch.manual_seed(0)
        model = auto.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    # Larger than usual, so that an adapter shows in the logits.
                    parameter.normal_(0.0, 0.12)
        model.tie_weights()
        # What random weights generate must not end at once.
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.pad_token_id = 0
        model.save_pretrained(folder)
        tok.save_pretrained(folder)
    adapter = root / "peft-internal-testing/tiny-opt-lora-revision"
    if not adapter.is_dir():
        LoraConfig(target_modules=["q_proj"]).save_pretrained(adapter)
