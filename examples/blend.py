"""Answer by two adapters at once, with weights: `python examples/blend.py [MODEL FOLDER]`."""

import sys

from gossamer import LLM, SamplingParams

model, folder = sys.argv[1:] or ("smollm2-135m", "runs")
question = [{"role": "user", "content": "How are you?"}]
# Over HTTP the same blend is the model "pirate:0.7+poet:0.3".
blends = [{"pirate": share, "poet": round(1 - share, 1)} for share in (0.3, 0.5, 0.7)]
with LLM(model, adapters=folder) as llm:
    greedy = SamplingParams(temperature=0, max_tokens=30)
    answers = llm.chat([question] * len(blends), adapter=blends, sampling=greedy)
for answer in answers:
    print(f"{answer.adapter}: {answer.text!r}")
