"""pytest plug-in: PEFT's own tests over our rows, and over some of PEFT's for comparison.

`__main__` starts pytest with it. Every outcome is a line of JSON in the file that
PEFT_SUITE_RESULTS names.
"""

import importlib.machinery
import json
import os
import re
import sys
import traceback
import types
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import rows

from gossamer.errors import GossamerError

ALL_PEFT = os.environ.get("PEFT_SUITE_ALL_PEFT") == "1"
DECODERS = [
    "trl-internal-testing/tiny-random-LlamaForCausalLM",
    "peft-internal-testing/tiny-dummy-qwen2",
    "peft-internal-testing/tiny-random-GPT2LMHeadModel",
    "peft-internal-testing/tiny-random-OPTForCausalLM",
    "hf-internal-testing/tiny-random-MistralForCausalLM",
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM",
    "gossamer-local/tiny-gemma2",
    "gossamer-local/tiny-phi3",
]
COMPARED_ON = DECODERS[:3]
"""Models on which PEFT's own rows run too."""
TASKS = {
    "test_decoder_models": "CAUSAL_LM",
    "test_seq_classifier": "SEQ_CLS",
    "test_feature_extraction_models": None,
    "test_encoder_decoder_models": "SEQ_2_SEQ_LM",
}
VARIANTS = (
    "alora_invocation_tokens", "trainable_token_indices", "use_dora", "target_parameters",
    "velora_config", "monteclora_config", "kasa_config", "arrow_config", "use_bdlora", "mica",
    "lora_ga_config", "eva_config", "corda_config",
)  # fmt: skip
"""Fields of PEFT's LoRA whose rows say nothing about the harness."""


def pytest_configure(config):
    """Make PEFT's tests importable, and let them ask no hub."""
    _stub_diffusers()
    sys.path.insert(0, os.environ["PEFT_SUITE_TESTS_PARENT"])
    import tests.testing_utils as utils

    @contextmanager
    def offline(model_id):
        yield

    utils.hub_online_once = offline
    for name in ("single_gpu_tests", "multi_gpu_tests", "regression", "bitsandbytes"):
        config.addinivalue_line("markers", f"{name}: of PEFT")
    _patch_parametrize()


def _stub_diffusers():
    """PEFT's tests import it for models that are not run here."""
    if find_spec("diffusers") is None:
        stub = types.ModuleType("diffusers")
        stub.__spec__ = importlib.machinery.ModuleSpec("diffusers", None)
        stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
        stub.UNet2DConditionModel = type("UNet2DConditionModel", (), {})
        sys.modules["diffusers"] = stub


def _usual(kwargs):
    return not any(key in kwargs for key in VARIANTS)


def _kept(values, place, wanted=lambda row: True):
    """Those of PEFT's own rows that are run for comparison; `place` is that of the class."""
    classes = rows.BASELINES if ALL_PEFT else rows.BASELINES[:1]
    kept = []
    for entry in values:
        row = tuple(entry.values) if hasattr(entry, "values") and hasattr(entry, "id") else entry
        cls = row[place] if isinstance(row, tuple) else row
        cls = cls if isinstance(cls, type) else type(cls)
        if cls in classes and wanted(row):
            kept.append(entry)
    return kept


def _adapt(module, names, values):
    """The rows to run in place of PEFT's `values`."""
    names = re.sub(r"\s", "", names) if isinstance(names, str) else ",".join(names)
    if names == "test_name,model_id,config_cls,config_kwargs":
        return rows.custom_rows() + _kept(values, 2, lambda r: r[1] == "MLP" and _usual(r[3]))
    if names == "test_name,tuner_method,config_cls,config_kwargs_1,config_kwargs_2":
        return rows.several_rows() + _kept(values, 2, lambda r: _usual(r[3]))
    if names == "config_cls,config_kwargs":
        if module == "test_quantization":
            return rows.quantization_rows() + _kept(values, 0, lambda r: _usual(r[1]))
        if module in TASKS:
            return rows.model_rows(TASKS[module]) + _kept(values, 0, lambda r: _usual(r[1]))
    if names == "config_cls" and len(values) > 20:
        return list(rows.PLAIN_LINEAR) + _kept(values, 0)
    if names == "config_class,mandatory_kwargs":
        return [(cls, {}) for cls in rows.OURS] + _kept(values, 0)
    if names == "model_id" and module == "test_decoder_models":
        return DECODERS
    if names == "config" and module == "test_low_level_api":
        return [cls(**kwargs) for cls, kwargs in rows.model_rows(None)] + _kept(values, 0)
    return values


def _patch_parametrize():
    from _pytest.python import Metafunc

    original = Metafunc.parametrize

    def parametrize(self, argnames, argvalues, **kwargs):
        values = list(argvalues)
        _mend(self.module)
        adapted = _adapt(self.module.__name__.rpartition(".")[2], argnames, values)
        if adapted is not values:
            # There are other rows now.
            kwargs.pop("ids", None)
        return original(self, argnames, adapted, **kwargs)

    Metafunc.parametrize = parametrize


def _mend(module):
    """In 0.21.2 a slip (`isinstance` of a class) skips all merging on Llama and Gemma."""
    check = getattr(module, "check_beft_config", None)
    if check is not None and not hasattr(check, "mended"):

        def for_beft_only(config_cls, model_id, config_kwargs):
            if config_cls.__name__ == "BeftConfig":
                check(config_cls, model_id, config_kwargs)

        for_beft_only.mended = True
        module.check_beft_config = for_beft_only


def _row(item):
    """The method of a test and the test's parameters; None if it is not to be run."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    cls = params.get("config_cls") or params.get("config_class")
    kwargs = params.get("config_kwargs") or params.get("config_kwargs_1") or {}
    if cls is None and "config" in params:
        cls, kwargs = type(params["config"]), params["config"].__dict__
    if cls not in (*rows.BASELINES, *rows.OURS):
        return None
    if cls in rows.BASELINES and params.get("model_id") in DECODERS[len(COMPARED_ON) :]:
        return None
    return rows.label(cls, kwargs), params


def pytest_collection_modifyitems(config, items):
    """Keep the tests of the rows."""
    kept, left = [], []
    for item in items:
        # Those only skip with every row that is kept.
        idle = "prompt_tuning" in item.name or "prompt_learning" in item.name
        (kept if _row(item) and not idle else left).append(item)
    items[:] = kept
    if left:
        config.hook.pytest_deselected(items=left)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Write down what came of a test."""
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" and (report.when != "setup" or report.passed):
        return
    name, params = _row(item)
    record = {
        "file": item.module.__name__.rpartition(".")[2],
        "test": item.originalname,
        "id": item.nodeid.partition("::")[2],
        "method": name,
        "model": params.get("model_id", ""),
        "outcome": report.outcome,
    }
    if report.failed:
        record |= _failure(call.excinfo)
    with open(os.environ["PEFT_SUITE_RESULTS"], "a") as file:
        file.write(json.dumps(record) + "\n")


def _failure(found):
    """What a failure said and where it arose: in our code if it went through that."""
    frames = traceback.extract_tb(found.tb)
    own = [frame for frame in frames if "/gossamer/" in frame.filename]
    place = own[-1] if own else frames[-1]
    in_test = (frame.line for frame in reversed(frames) if "/tests/" in frame.filename)
    return {
        "error": type(found.value).__name__,
        "message": str(found.value)[:600],
        "where": f"{'/'.join(Path(place.filename).parts[-3:])}:{place.lineno}",
        "test_line": next(in_test, ""),
        "named": isinstance(found.value, GossamerError),
    }
