"""Failures that are expected: by a method's nature, or as known defects; each with its reason.

A rule is (method, file, test, model, text of the error), all regular expressions, and the reason.
What no rule fits is new, and ends the run with an error.
"""

import re
from typing import Any

Rule = tuple[str, str, str, str, str, str]
SPARSE = r"smt|slora(\+residual)?|sparse_lora"
REFT = "loreft|direft|nodireft"
BOTTLENECK = "houlsby|pfeiffer"
NATURE: list[Rule] = [
    (
        BOTTLENECK, ".*", ".*", ".*", "a bottleneck adapter cannot be merged",
        "bottleneck: what follows a nonlinearity is no change of a weight, so it cannot be merged; "
        "PEFT's tests skip such methods of its own by name (OSF, Lily, Shadow)",
    ),
    (
        REFT, ".*", ".*", ".*", "ReFT cannot be merged",
        "ReFT edits hidden states at some positions only, so it cannot be merged",
    ),
    (
        REFT, ".*", ".*", ".*", "edit the same positions and cannot act together",
        "ReFT: two edits of the same positions do not add up; refused by name",
    ),
    (
        "sherl", ".*", ".*", ".*", "SHERL cannot be merged",
        "a network beside the early layers makes what the late ones get, so it cannot be merged",
    ),
    (
        "sherl", ".*", ".*", ".*", "cannot act together",
        "SHERL: two networks cannot both make the input of the late layers; refused by name",
    ),
    (
        "sherl", ".*", ".*layer.*", ".*", "use late_layers, taps and layers",
        "SHERL acts on whole blocks, which its own fields choose; refused by name",
    ),
    (
        "sherl", ".*", ".*", ".*", "has no list of decoder blocks|has an encoder",
        "SHERL works with decoders of transformers; refused by name",
    ),
    (
        ".*", ".*", ".*", ".*GPT2.*|EmbConv1D",
        "cannot adapt|cannot be adapted|needs linear layers|has none of the matrices|"
        "No `target_modu|wo.output",
        "transformers' Conv1D (GPT-2) is refused by name; PEFT's tests skip it for SHiRA, MiSS and "
        "others of its own",
    ),
    (
        "lorta", ".*", ".*", ".*phi3.*|.*GPT2.*|.*Bert.*|.*Deberta.*|.*Roberta.*|.*T5.*",
        "has none of the matrices|none of the matrices|not found",
        "LoRTA spans q_proj, k_proj, v_proj, o_proj, which the model has not (fused or named "
        "otherwise); refused by name",
    ),
    (
        REFT, ".*", ".*", ".*", "has no list of decoder blocks",
        "ReFT works with decoders of transformers; refused by name",
    ),
    (
        r"slora(\+residual)?", "test_quantization", ".*", ".*", "its weight is quantised",
        "SLoRA trains entries of the weight itself: a quantised base is refused by name",
    ),
    (
        "smt|sparse_lora", "test_quantization", "test_merge.*", ".*", "cannot merge",
        "merging single entries into 4 or 8 bits would lose them: refused by name (SHiRA rounds)",
    ),
    (
        "lamda|lamda_pp|lorta", "test_quantization", "test_quantized_output_similar.*", ".*",
        "check failed",
        "init_weights=False makes random weights so strong that rounding the base shows more "
        "than this comparison allows",
    ),
    (
        SPARSE, "test_decoder_models|test_encoder_decoder_models", "test_lora_conversion", ".*",
        "LoRA conversion MSE too high",
        "a random sparse change has full rank: LoRA of rank 4 or 8 cannot hold it (SHiRA says so "
        "by supports_lora_conversion() = False; ours converts, and tells the error)",
    ),
    (
        "lorta", ".*", ".*layer_indexing.*", ".*", "",
        "one tensor for all layers: the number of parameters is the same (PEFT skips VeRA, VB-LoRA "
        "and UniLoRA here by name)",
    ),
    (
        "lorta", "test_low_level_api", ".*", ".*", "uses shared state",
        "one tensor for all layers: PEFT refuses direct injection of such tuners, of its own too",
    ),
    (
        "lamda|lamda_pp", "test_low_level_api", ".*", ".*", "is above the smaller side",
        "the row's rank is above the width of a classifier's head; refused by name",
    ),
    (
        "lorta", "test_config", "test_from_json_file", ".*", "",
        "target_modules has a default, held as a set and written as a list; PEFT's test has no "
        "target_modules in any row",
    ),
    (
        "lamda|lamda_pp", "test_config", "test_config_layers_to_transform_index_zero", ".*",
        "needs a list as target_modules",
        "LaMDA without target_modules means all linear layers, of which numbers of layers would "
        "choose none; refused by name",
    ),
    (
        f"{REFT}|meft|sherl", ".*",
        ".*layer_indexing|test_config_layers_to_transform_index_zero", ".*", "means nothing to",
        "the tuner has fields of its own for the layers it acts on; PEFT's is refused by name",
    ),
    (
        ".*", ".*", ".*layer_indexing", ".*", "cannot be used when `target_modules` is a str",
        "the row names its targets by one string, beside which PEFT's own configurations refuse "
        "numbers of layers, too",
    ),
    (
        "meft", ".*", ".*", ".*", "MEFT cannot make a model of type",
        "MEFT's equations are written for decoders of Llama's family; others are refused by name",
    ),
    (
        "meft", ".*", ".*", ".*", "MEFT cannot be merged",
        "MEFT computes with two streams and networks beside the layers, so it cannot be merged",
    ),
    (
        f"{SPARSE}|lamda|lamda_pp|{BOTTLENECK}", "test_feature_extraction_models", ".*training.*",
        ".*BertModel|.*RobertaModel", "^AssertionError: $",
        "the row's target 'all-linear' includes BERT's and RoBERTa's pooler, which the hidden "
        "states that are differentiated do not pass (LoRA with this target fails here too)",
    ),
    (
        f"{REFT}|sherl", "test_quantization", "test_quantization_backend_is_set_and_repr", ".*",
        "^AssertionError: assert 0 == ",
        "what acts on hidden states wraps no linear layer, quantised or not; this test counts them",
    ),
    (
        BOTTLENECK, "test_encoder_decoder_models", ".*gradient_checkpointing.*", ".*Bart.*",
        "bottleneck_up", "four ReLUs may all be off in one of two passes with dropout: chance",
    ),
]  # fmt: skip
DEFECTS: list[Rule] = []
"""Of ours, not mended yet."""


def find(rules: list[Rule], record: dict[str, Any]) -> str | None:
    """Return the reason of the first rule that fits a failure; None if none does."""
    said = f"{record.get('error', '')}: {record.get('message', '')}"
    for method, file, test, model, text, reason in rules:
        if (
            re.fullmatch(method, record["method"])
            and re.fullmatch(file, record["file"])
            and re.fullmatch(test, record["test"])
            and re.fullmatch(model, record["model"])
            and re.search(text, said, re.DOTALL)
        ):
            return reason
    return None
