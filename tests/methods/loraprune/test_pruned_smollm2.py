"""The real model, pruned by magnitude, is served as transformers computes it."""

import pytest
import torch
from method_helpers import context
from transformers import set_seed

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_model, load_tokenizer
from gossamer.methods.loraprune.method import Loraprune
from gossamer.verification.verify import VerifySettings, verify

from tiny import make_lora

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("keep_layers", [None, []])
def test_smaller_models_and_their_adapters_are_served_exactly(keep_layers, tmp_path):
    base = resolve("smollm2-135m")
    method = Loraprune.from_values(
        {
            "criterion": "magnitude",
            "mlp_ratio": 0.2,
            "head_ratio": 0.34,
            "keep_layers": keep_layers,
        }
    )
    set_seed(0)
    where = context(base)
    model = method.prepare(load_model(base, dtype=torch.float32), where)
    method.pruner.prune({"heads": 0.34, "mlp": 0.2})
    folder = tmp_path / "smaller"
    folder.mkdir()
    method.export(model, folder, where)
    assert load_tokenizer(folder)("Hi").input_ids
    adapter = make_lora(tmp_path / "adapters" / "one", folder, rank=8, size=0.1)
    # Pruned and not trained, its logits are large, and rounding with them: some 0.002.
    asked = VerifySettings(memory_gib=0.5, tolerance=1e-2)
    verdicts = verify(folder, [adapter], asked, lambda line: None)
    assert [verdict.reference for verdict in verdicts] == ["transformers", "merged", "PEFT"]
    assert all(verdict.passed for verdict in verdicts), verdicts
