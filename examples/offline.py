"""Ask two adapters and the base model in one batch: `python examples/offline.py [MODEL FOLDER]`."""

import sys

from gossamer import LLM, SamplingParams

model, folder = sys.argv[1:] or ("smollm2-135m", "runs")
question = [{"role": "user", "content": "How are you?"}]
names = [None, "pirate", "poet"]  # None is the base model.
with LLM(model, adapters=folder) as llm:
    greedy = SamplingParams(temperature=0, max_tokens=30)
    answers = llm.chat([question] * len(names), adapter=names, sampling=greedy)
for answer in answers:
    print(f"{answer.adapter or 'base model'}: {answer.text!r}")
