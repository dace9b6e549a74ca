"""Writes the model card, `README.md`: what the adapter is, how it was made, how to use it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gossamer.basemodel.load import load_config
from gossamer.basemodel.pruned import is_pruned
from gossamer.files import write_whole
from gossamer.methods import Method, summary
from gossamer.training.outputs.metrics import Record, RunResult
from gossamer.training.settings import RunSettings


def write_model_card(
    path: Path,
    settings: RunSettings,
    recorded: Mapping[str, Any],
    result: RunResult,
    method: Method[Any],
    exported: Path,
) -> None:
    """Write the model card, all or nothing; `exported` is the folder that has the result now."""
    head = {"base_model": settings.model, "library_name": "peft", "tags": [method.name, "gossamer"]}
    if method.kind == "model":
        head["library_name"] = "transformers"
    sections = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        f"# {path.absolute().parent.name}",
        f"`{settings.model}` fine-tuned with `{method.name}`: {summary(method.name)}.",
        "## Use\n\n"
        + _usage(path.parent, settings, method, recorded.get("quantization"), exported),
        "## Results\n\n" + _table(result_rows(result)),
        "![loss](curve.png)",
        "## Settings\n\n" + _table(_setting_rows(settings, recorded)),
        f"Repeat it: `gossamer tune --config {path.parent / 'run.yaml'} --output OTHER-FOLDER`.",
    ]
    write_whole(path, "\n\n".join(sections) + "\n")


def result_rows(result: RunResult) -> list[tuple[str, str]]:
    """The rows of the table at the end of a run: what was measured, as text."""
    rows = [
        ("trainable parameters", f"{result.trainable:,} ({result.trainable_share:.2%} of all)"),
        ("steps", f"{result.steps:,}"),
        *[row for stage in result.stages for row in _stage_rows(stage)],
        ("training time", f"{result.seconds:,.1f} s"),
        ("tokens per second", f"{result.tokens_per_second:,.0f}"),
        ("peak memory", f"{result.peak_memory / 2**30:.2f} GiB"),
        ("training loss, last tenth", f"{result.train_loss:.4f}"),
    ]
    if result.work_kept is not None:
        rows += _sparse_rows(result)
    rows += _density_rows(result)
    if result.eval_accuracy is not None:
        rows.append(("chosen answer preferred, held-out pairs", f"{result.eval_accuracy:.1%}"))
    if result.best_step is not None:
        rows.append(("result of step", f"{result.best_step:,}"))
    if result.eval_loss is not None:
        rows.append(("evaluation loss", f"{result.eval_loss:.4f}"))
    if result.eval_loss_before is not None:
        rows.append(("evaluation loss before", f"{result.eval_loss_before:.4f}"))
    return rows


def _stage_rows(stage: Record) -> list[tuple[str, str]]:
    """Return a row for the stage, and one for each figure that the method reports of it."""
    own = ("step", "stage", "stage_steps", "learning_rate", "trainable")
    first, steps = stage["step"] + 1, stage["stage_steps"]
    text = (
        f"steps {first} to {first + steps - 1}, learning rate {stage['learning_rate']:g}, "
        f"{stage['trainable']:,} parameters"
    )
    rows = [(f"stage {stage['stage']}", text)]
    for name, value in stage.items():
        if name not in own:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append((f"stage {stage['stage']}: {name.replace('_', ' ')}", shown))
    return rows


def _sparse_rows(result: RunResult) -> list[tuple[str, str]]:
    rows = [("base and adapter work kept, by FLOPs", f"{result.work_kept:.1%}")]
    if result.choosing_work is not None:
        rows.append(("of this, to choose and replace channels", f"{result.choosing_work:.2%}"))
    if result.dense_step_seconds is not None:
        rows.append(("median step, dense start", f"{result.dense_step_seconds:.2f} s"))
    if result.sparse_step_seconds is not None:
        rows.append(("median step, sparse", f"{result.sparse_step_seconds:.2f} s"))
    return rows


def _density_rows(result: RunResult) -> list[tuple[str, str]]:
    """Return a row for each density of MLP activations that was measured."""
    known = (
        ("activation density, last tenth", result.density),
        ("activation density, held-out rows", result.eval_density),
        ("activation density, held-out rows, before", result.eval_density_before),
    )
    return [(name, f"{value:.2%}") for name, value in known if value is not None]


def _usage(
    folder: Path,
    settings: RunSettings,
    method: Method[Any],
    quantization: str | None,
    exported: Path,
) -> str:
    if method.kind == "model":
        # Of layers with widths of their own: pruned in this run, or before it.
        ours = "import gossamer.tuners  # makes transformers know it\n"
        return _code(
            f"{ours if is_pruned(load_config(exported)) else ''}"
            "from transformers import AutoModelForCausalLM\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{folder}")'
        )
    tuner = f"import {method.tuner_module}  # makes PEFT know it\n" if method.tuner_module else ""
    load = _code(
        f"{tuner}from peft import PeftModel\n\n"
        f'model = PeftModel.from_pretrained(base_model, "{folder}")'
    )
    if method.kind == "other":
        return f"This folder is the adapter. Load it with PEFT onto the same base model:\n\n{load}"
    command = f"gossamer serve --model {settings.model} --adapters {folder.absolute().parent}"
    if quantization is not None:
        command += f" --quantization {quantization}"
    serve = _code(command, language="sh")
    return (
        f"This folder is the adapter. Serve it with others:\n\n{serve}\n\n"
        f"or load it with PEFT onto the same base model:\n\n{load}"
    )


def _setting_rows(settings: RunSettings, recorded: Mapping[str, Any]) -> list[tuple[str, str]]:
    values = {**settings.model_dump(mode="json"), **settings.method_settings}
    del values["method_settings"]
    rows = [(name, f"`{value}`") for name, value in values.items() if value is not None]
    versions = ", ".join(f"{name} {number}" for name, number in recorded["versions"].items())
    if "density_above" in recorded:
        rows.append(("an activation is dense above", f"`{recorded['density_above']:.4g}`"))
    return [*rows, ("versions", versions)]


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _code(text: str, *, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"
