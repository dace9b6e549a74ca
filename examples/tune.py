"""Tune two adapters on three rows each: `python examples/tune.py [MODEL FOLDER]`."""

import json
import sys
from pathlib import Path

import gossamer

model, folder = sys.argv[1:] or ("smollm2-135m", "runs")
questions = ["How are you?", "What is the weather like?", "What do you eat?"]
answers = {
    "pirate": ["Arr, fit as a fiddle!", "A fair wind, matey!", "Hardtack and rum, arr!"],
    "poet": ["As light as dew.", "The sky weeps silver threads.", "I dine on verses, dear."],
}
for name, texts in answers.items():
    data = Path(folder, f"{name}.jsonl")
    data.parent.mkdir(parents=True, exist_ok=True)
    pairs = zip(questions, texts, strict=True)
    rows = [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in pairs]
    data.write_text("\n".join(rows) + "\n")
    # What the arguments do not say is each setting's default: `gossamer tune --help-method lora`.
    run = gossamer.tune(
        model, data, Path(folder, name), max_steps=10, learning_rate=1e-3, overwrite=True
    )
    print(f"{run.output}: loss {run.losses[0]:.2f} to {run.losses[-1]:.2f}")
