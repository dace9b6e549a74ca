"""What each method is expected to do on a tiny model: the table of the behaviour tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tiny import SHAPE

Shapes = dict[str, tuple[int, int]]
HIDDEN, LAYERS = SHAPE["hidden_size"], SHAPE["num_hidden_layers"]
INNER = SHAPE["intermediate_size"]
HEADS, KV_HEADS, HEAD_DIM = (
    SHAPE["num_attention_heads"],
    SHAPE["num_key_value_heads"],
    SHAPE["head_dim"],
)
VOCABULARY = 259
RANK = 4
SAME = "same"
"""What is asked works."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One method. Fields that end in a verb's object hold SAME, or a part of the refusal."""

    count: Callable[[Shapes], int]
    """Trainable parameters, by the formula of the method's page."""
    learns: tuple[str, ...]
    """Each trainable parameter's name holds one of these."""
    settings: dict[str, Any] = field(default_factory=lambda: {"rank": RANK})
    model_type: str = "llama"
    rate: float = 5e-3
    """A learning rate with which three steps on a tiny random model lower the loss."""
    starts_as_base: bool = True
    own_gradients: bool = False
    """Whether the method keeps its gradients elsewhere than in `.grad`, and tests them itself."""
    tolerance: float = 0.0
    """Largest difference of logits between the method and its result loaded by plain PEFT."""
    merge: str = SAME
    unmerge_warning: str | None = None
    checkpointing: str = SAME
    four_bit: str = SAME
    wrong: tuple[tuple[dict[str, Any], str], ...] = ()
    """Settings that are refused, and a part of the reason."""


def low_rank(rank: int = RANK) -> Callable[[Shapes], int]:
    """r (d + k) for each matrix."""
    return lambda shapes: sum(rank * (rows + columns) for rows, columns in shapes.values())


def matrices(shapes: Shapes) -> int:
    """Weights of all linear layers."""
    return sum(rows * columns for rows, columns in shapes.values())


def ends_with(shapes: Shapes, *names: str) -> Shapes:
    return {path: shape for path, shape in shapes.items() if path.endswith(names)}


def bottlenecks(per_layer: int, width: int) -> Callable[[Shapes], int]:
    """2 d w + w + d for each place."""
    return lambda shapes: LAYERS * per_layer * (2 * HIDDEN * width + width + HIDDEN)


def side_network(states: int, width: int) -> int:
    """n (d w + w + 2 (w^2 + w)) + (w + 1) + (w d + d), with the last state going on in full."""
    tap = HIDDEN * width + width + 2 * (width**2 + width)
    return states * tap + (width + 1) + (width * HIDDEN + HIDDEN)


NO_TARGET = ({"target_modules": ["nope"]}, "'nope' matches no layer; available: down_proj")
NO_LAYER = ({"layers": [3]}, "there is no layer 3; the model has 0 to 2")
NO_MERGE = "soft prompts have no weights to merge into"
PIECES = ("prompt_encoder",)

CASES: dict[str, Case] = {
    "lora": Case(
        count=low_rank(),
        learns=("lora_A", "lora_B"),
        wrong=(
            NO_TARGET,
            NO_LAYER,
            ({"layers": []}, "layers is empty"),
            ({"rank_pattern": {"nope": 2}}, "rank_pattern: 'nope' matches no linear layer"),
            ({"alpha_pattern": {"(": 2}}, "'(' is no regular expression"),
        ),
    ),
    "rslora": Case(count=low_rank(), learns=("lora_A", "lora_B"), wrong=(NO_TARGET,)),
    "dora": Case(
        count=lambda s: low_rank()(s) + sum(rows for rows, _ in s.values()),
        learns=("lora_A", "lora_B", "lora_magnitude_vector"),
        wrong=(NO_TARGET,),
    ),
    "qlora": Case(count=low_rank(), learns=("lora_A", "lora_B"), wrong=(NO_TARGET,)),
    "pissa": Case(
        count=low_rank(),
        learns=("lora_A", "lora_B"),
        rate=1e-3,
        tolerance=1e-4,
        four_bit="the weights must be replaced by the decomposition's rest",
        wrong=(
            NO_TARGET,
            ({"rank": 33}, "rank 33 is more than the 32 singular values of model.layers.0"),
        ),
    ),
    "federa": Case(
        count=low_rank(),
        learns=("lora_A", "lora_B"),
        rate=1e-3,
        tolerance=1e-4,
        four_bit="the weights must be replaced by the decomposition's rest",
    ),
    "velora": Case(
        settings={"rank": RANK, "groups": 8},
        count=low_rank(),
        learns=("lora_A", "lora_B"),
        four_bit="PEFT's 4-bit and 8-bit layers would train plain LoRA",
        wrong=(
            ({"groups": 60}, "groups 60 is more than the 48 inputs"),
            ({"compressed_modules": ["embed"]}, "compressed_modules: 'embed' is none of"),
        ),
    ),
    "shira": Case(
        count=low_rank(),
        learns=("shira_weight",),
        wrong=(
            NO_TARGET,
            NO_LAYER,
            ({"rank": 20}, "more entries than model.layers.0.self_attn.k_proj has (32 x 48)"),
        ),
    ),
    "adalora": Case(
        settings={"rank": 2, "initial_rank": RANK},
        count=lambda s: low_rank()(s) + RANK * len(s),
        learns=("lora_A", "lora_B", "lora_E"),
        tolerance=1e-4,
        wrong=(
            ({"initial_rank": 8, "rank": 8}, "initial_rank 8 must be more than rank 8"),
            ({"first_share": 0.7, "last_share": 0.3}, "leave none of the 10 steps"),
            NO_LAYER,
        ),
    ),
    "ia3": Case(
        settings={},
        count=lambda s: (
            sum(rows for rows, _ in ends_with(s, "k_proj", "v_proj").values())
            + sum(columns for _, columns in ends_with(s, "down_proj").values())
        ),
        learns=("ia3_l",),
        rate=5e-2,
        tolerance=1e-6,
        unmerge_warning="Unmerge result can be inaccurate",
        wrong=(
            NO_TARGET,
            ({"feedforward_modules": ["up_proj"]}, "'up_proj' is none of the target_modules"),
        ),
    ),
    "ln_tuning": Case(
        settings={},
        count=lambda s: (2 * LAYERS + 1) * HIDDEN,
        learns=("ln_tuning_layers",),
        rate=2e-2,
        wrong=(({"norms": ["nope"]}, "norms: 'nope' is none of the model's: input_layernorm"),),
    ),
    "bitfit": Case(
        settings={},
        model_type="qwen2",
        count=lambda s: sum(
            rows for rows, _ in ends_with(s, "q_proj", "k_proj", "v_proj").values()
        ),
        learns=("beft_bias",),
        rate=5e-2,
        wrong=(({"target_modules": "mlp"}, "of this qwen2 model has a bias; use method"),),
    ),
    "houlsby": Case(
        settings={"width": RANK},
        count=bottlenecks(2, RANK),
        learns=("bottleneck_",),
        merge="a bottleneck adapter cannot be merged",
        wrong=(NO_TARGET, NO_LAYER),
    ),
    "pfeiffer": Case(
        settings={"width": RANK},
        count=bottlenecks(1, RANK),
        learns=("bottleneck_",),
        merge="a bottleneck adapter cannot be merged",
        wrong=(NO_TARGET, NO_LAYER),
    ),
    "prompt_tuning": Case(
        settings={"tokens": 5},
        count=lambda s: 5 * HIDDEN,
        learns=PIECES,
        starts_as_base=False,
        rate=5e-2,
        merge=NO_MERGE,
        wrong=(({"start_text": ""}, "start_text is empty"),),
    ),
    "prefix_tuning": Case(
        settings={"tokens": 5},
        count=lambda s: 5 * 2 * LAYERS * KV_HEADS * HEAD_DIM,
        learns=PIECES,
        starts_as_base=False,
        rate=5e-2,
        merge=NO_MERGE,
        checkpointing="transformers drops the keys and values in front of the text",
        wrong=(({"start_text": ""}, "start_text is empty"),),
    ),
    "p_tuning": Case(
        settings={"tokens": 5, "encoder_size": 6},
        count=lambda s: 5 * HIDDEN + (HIDDEN + 1) * 6 + (6 + 1) * 6 + (6 + 1) * HIDDEN,
        learns=PIECES,
        starts_as_base=False,
        rate=2e-2,
        merge=NO_MERGE,
    ),
    **{
        name: Case(
            count=lambda s: LAYERS * (2 * RANK * HIDDEN + RANK),
            learns=("reft_rotate", "reft_weight", "reft_bias"),
            rate=3e-2,
            tolerance=1e-5,
            merge="ReFT cannot be merged into the weights",
            wrong=(NO_LAYER, ({"rank": 49}, "rank = 49 is above the model's width 48")),
        )
        for name in ("loreft", "direft", "nodireft")
    },
    "lamda": Case(
        count=lambda s: sum(RANK**2 + rows * RANK for rows, _ in s.values()),
        learns=("lamda_S", "lamda_B"),
        tolerance=1e-4,
        wrong=(NO_TARGET, ({"rank": 33}, "rank = 33 is above the smaller side of a layer, 32")),
    ),
    "lamda_pp": Case(
        # Of rank 1 there is nothing to share out, so the count is known without the weights.
        settings={"rank": 1},
        count=lambda s: sum(1 + rows for rows, _ in s.values()),
        learns=("lamda_S", "lamda_B"),
        tolerance=1e-4,
        wrong=(NO_TARGET, ({"rank": 33}, "rank = 33 is above the smaller side of model.layers.0")),
    ),
    "meft": Case(
        settings={"width": RANK, "reversible_layers": 2},
        count=lambda s: 2 * 2 * (2 * HIDDEN * RANK + RANK + HIDDEN),
        learns=("meft_f", "meft_g"),
        starts_as_base=False,
        merge="MEFT cannot be merged into the weights",
        wrong=(
            ({"reversible_layers": 4}, "reversible_layers = 4 is above the 3 layers"),
            ({"lam": 0}, "'lam' = 0"),
            ({"anchor_every": -1}, "'anchor_every' = -1"),
        ),
    ),
    "lorta": Case(
        # Inputs, widths of heads and numbers of heads of two kinds each; matrices; layers.
        count=lambda s: (
            RANK
            * (
                (HIDDEN + HEADS * HEAD_DIM)
                + (HEAD_DIM + HIDDEN // HEADS)
                + (HEADS + KV_HEADS)
                + 4
                + LAYERS
            )
        ),
        learns=("lorta_",),
        rate=5e-2,
        tolerance=1e-4,
        wrong=(({"target_modules": "mlp"}, "lorta spans the matrices of attention"),),
    ),
    "sherl": Case(
        # One block is late; the states are the embeddings and the outputs of the other two.
        settings={"late_layers": 1},
        count=lambda s: side_network(LAYERS, HIDDEN // 4),
        learns=("sherl_side",),
        merge="SHERL cannot be merged into the weights",
        wrong=(
            ({"late_layers": 3}, "late_layers = 3 leaves no early block: the model has 3"),
            ({"layers": [2]}, "there is no early layer 2; with late_layers = 1 they are 0 to 1"),
            ({"reduction": 49}, "reduction = 49 is above the model's width 48"),
        ),
    ),
    "smt": Case(
        # The defaults are too coarse for the tiny model.
        settings={"block_size": 8, "attention_ratio": 0.02, "probe_batches": 1},
        count=lambda s: int(0.02 * (matrices(s) + VOCABULARY * HIDDEN) / 8**2) * 8**2,
        learns=("smt_values",),
        rate=2e-2,
        tolerance=1e-5,
        wrong=(
            ({"attention_ratio": 0.0}, "attention_ratio and mlp_ratio are both 0"),
            ({"block_size": 256}, "is less than one block of 256x256; lower block_size or"),
        ),
    ),
    "slora": Case(
        # Of the sparse stage, which a run begins with.
        settings={"rank": RANK, "density": 0.1},
        count=lambda s: sum(round(0.1 * rows * columns) for rows, columns in s.values()),
        learns=("slora_values",),
        four_bit="its weight is quantised",
        wrong=(NO_TARGET, NO_LAYER, ({"density": 0}, "'density' = 0: must be above")),
    ),
    "sparse_lora": Case(
        settings={"rank": RANK, "density": 0.1, "probe_batches": 1},
        count=low_rank(),
        learns=("sparselora_A", "sparselora_B"),
        rate=2e-2,
        tolerance=1e-5,
        wrong=(NO_TARGET, NO_LAYER, ({"density": 0.9}, "SHiRA's layout would need")),
    ),
    "sparsegrad": Case(
        settings={"probe_batches": 1},
        # A marker beside each weight tells the optimizer apart.
        count=lambda s: matrices(ends_with(s, "up_proj", "down_proj")) + 2 * LAYERS,
        learns=("up_proj", "down_proj"),
        own_gradients=True,
        tolerance=1e-4,
        four_bit="trains whole weights in full precision",
        wrong=(({"modules": ["nope"]}, "'nope' matches no layer"),),
    ),
    "loraprune": Case(
        settings={"rank": RANK, "alpha": 4, "interval": 1, "head_ratio": 0.5},
        count=low_rank(),
        learns=("lora_A", "lora_B"),
        tolerance=1e-5,
        wrong=(
            ({"head_ratio": 0.4}, "head_ratio 0.4 removes none of the 2 key/value heads of layer"),
            ({"mlp_ratio": 0.0, "head_ratio": 0.0}, "mlp_ratio and head_ratio are both 0"),
            ({"warmup_share": 0.5, "recovery_share": 0.5}, "leave no steps to prune in"),
            ({"keep_layers": [3]}, "there is no layer 3; the model has 0 to 2"),
            ({"keep_layers": [0, 1, 2]}, "keep_layers names all layers"),
        ),
    ),
    "full": Case(
        settings={},
        count=lambda s: matrices(s) + (2 * LAYERS + 1) * HIDDEN + VOCABULARY * HIDDEN,
        learns=("",),
        rate=1e-3,
        four_bit="quantised",
    ),
}
