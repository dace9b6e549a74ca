"""What a run says about its objective."""

from typing import Annotated, Literal

from pydantic import Field

from gossamer.settings import Settings


class ObjectiveSettings(Settings):
    """What is learnt from the rows."""

    objective: Literal["sft", "dpo", "orpo"] = "sft"
    """What is learnt: completions (sft), or from pairs of a chosen and a rejected answer to prefer
    the chosen one, measured against the model at the start of the run (dpo) or alone (orpo)."""

    start_from: str | None = None
    """Folder of a finished run with the same method and base model, whose adapter is learnt on;
    its optimizer is not taken over."""

    preference_beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """dpo: how strongly the model is held to its start. orpo: the weight of the odds ratio."""

    dpo_loss: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "nca_pair"] = "sigmoid"
    """The kind of DPO's loss, by TRL's names."""

    dpo_label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """With dpo_loss=robust: the share of pairs that are believed to be the wrong way round."""

    dpo_sft_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight of the chosen answer's own loss (nats per token) beside DPO's."""
