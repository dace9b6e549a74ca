"""TRL's trainer for preferences, with a run's own behaviour: DPO, and ORPO in its place."""

from typing import Any

from torch import Tensor, nn
from trl import DPOTrainer

from gossamer.training.loop.trainer import RunBehaviour
from gossamer.training.objectives.orpo import log_odds, orpo_loss

_FIGURES = {"accuracy": "rewards/accuracies", "margin": "rewards/margins"}
"""Our names of what TRL measures: the share of pairs whose chosen answer has gained more, and by
how much (times beta)."""


def preference_figures(logs: dict[str, Any]) -> dict[str, float]:
    """The figures of TRL's `logs` that a metrics file has; empty without pairs."""
    return {
        name: round(float(logs[theirs]), 6) for name, theirs in _FIGURES.items() if theirs in logs
    }


class PreferenceTrainer(RunBehaviour, DPOTrainer):
    """A `DPOTrainer` over pairs that are token ids already, for one stage of a run.

    TRL would make a copy of the adapter as the reference, which not every method has and which the
    checkpoints would hold; the pairs bring their reference instead.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(ref_model=_NoReference(options["model"].config), **options)
        self.ref_model = None
        self.precompute_ref_logps = True

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def counts(self, batch: Any) -> tuple[int, int]:
        return int(batch["attention_mask"].sum()), int(batch["completion_mask"][:, 1:].sum())

    def weight(self, batch: Any) -> int:
        return len(batch["input_ids"]) // 2

    def eval_figures(self, weights: list[int]) -> dict[str, float]:
        known, total = self.trl_figures("eval"), sum(weights)
        return {
            f"eval_{name}": round(_mean(known[theirs], weights, total), 6)
            for name, theirs in _FIGURES.items()
            if len(known[theirs]) == len(weights)
        }

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        if self._settings.objective == "dpo":
            return super()._compute_loss(model, inputs, return_outputs)
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        )
        lengths = mask[:, 1:].sum(1).view(2, -1)
        # Soft prompts have positions of their own in front.
        front = outputs.log_probs.shape[1] - (mask.shape[1] - 1)
        sums = outputs.log_probs[:, front:].sum(1).view(2, -1)
        # Rows that are read as they are needed may be pairs that nothing is learnt from.
        counted = (lengths > 0).all(0)
        if not counted.any():
            nothing = sums.new_zeros(1)
            # Each process has figures to exchange in each step; these are 0, as the loss is.
            self._note(nothing, nothing, nothing)
            return sums.sum() * 0
        sums, lengths = sums[:, counted], lengths[:, counted]
        chosen, rejected = sums / lengths
        nll = -sums[0].sum() / lengths[0].sum()
        self._note(chosen.detach(), rejected.detach(), nll.detach())
        return orpo_loss(chosen, rejected, nll, self.beta)

    def _note(self, chosen: Tensor, rejected: Tensor, nll: Tensor) -> None:
        metrics = self.trl_figures("train" if self.model.training else "eval")
        margins = self.beta * (log_odds(chosen) - log_odds(rejected))
        metrics["rewards/accuracies"].append((chosen > rejected).float().mean().item())
        metrics["rewards/margins"].append(margins.mean().item())
        metrics["nll_loss"].append(nll.item())


def _mean(values: list[float], weights: list[int], total: int) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / max(1, total)


class _NoReference(nn.Module):
    """Stands for a reference model while TRL's trainer is made, so that it makes none."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the pairs bring their reference")
