"""As with tiny models, on the real one: mixed adapters say what PEFT's merged models say."""

import gc

import pytest
import torch
from exactness import Family, answers

from gossamer.basemodel.find import resolve
from gossamer.serving.llm import LLM

from tiny import make_lora

pytestmark = pytest.mark.slow


class RealFamily(Family):
    """Fewer adapters, of the ranks at the edges; merged models are not kept, they are large."""

    def __init__(self, folder):
        self.model = resolve("smollm2-135m")
        self.adapters = folder
        for name, options in {
            "r1": {"rank": 1, "size": 0.2},
            "r12-qv": {"rank": 12, "targets": ("q_proj", "v_proj")},
            "r16-rslora": {"rank": 16, "use_rslora": True, "dtype": torch.bfloat16},
            "r64": {"rank": 64, "alpha": 32},
        }.items():
            make_lora(folder / name, self.model, **{"size": 0.02, **options})
        self._merged = {}

    requests = (
        ([504, 3575, 282, 4649, 314], None),
        ([504, 3575, 282, 4649, 314], "r1"),
        ([19556, 28, 451, 314], "r12-qv"),
        ([504, 3575, 282, 4649, 314] * 30, "r16-rslora"),
        ([19556], "r64"),
        ([28] * 20, None),
    )

    def merged(self, name):
        self._merged.clear()
        gc.collect()
        return super().merged(name)


def test_one_mixed_batch(tmp_path):
    family = RealFamily(tmp_path)
    with LLM(str(family.model), adapters=tmp_path, memory_gib=0.7) as llm:
        completions = answers(llm, family.requests)
    for completion in completions:
        family.check(completion)
    assert len({c.token_ids for c in completions}) == len(completions)
