"""Prove that what is served is what was learnt: `python examples/verify.py [MODEL FOLDER]`."""

import sys
from pathlib import Path

from gossamer.basemodel.find import resolve
from gossamer.verification.verify import VerifySettings, verify

model, folder = sys.argv[1:] or ("smollm2-135m", "runs")
adapters = [Path(folder, name) for name in ("pirate", "poet")]
settings = VerifySettings(prompts=("How are you?",), new_tokens=8)
for verdict in verify(resolve(model), adapters, settings, tell=print):
    same = f"{verdict.equal_tokens} of {verdict.tokens} tokens are equal"
    print(f"{verdict.adapter} against {verdict.reference}: {same}, passed: {verdict.passed}")
