// What the model answers to the same held-out prompts as it learns.

import { get } from "../api.js";
import { html, useEffect, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";

/** So many steps are shown at first: the one before training, and the last ones. */
const FEW = 3;
/** And so many of the prompts. */
const FEW_PROMPTS = 3;

export function Samples({ job, evaluations }) {
  const found = useSignal(null);
  const problem = useSignal(null);
  const isAll = useSignal(false);
  useEffect(() => {
    if (!job.training?.samples) return;
    get(`/v1/fine_tuning/jobs/${job.id}/samples`).then((answer) => { found.value = answer; },
      (error) => { problem.value = error; });
  }, [job.id, job.status, evaluations]);

  if (problem.value) return html`<${Problem} error=${problem.value} />`;
  const { prompts, answers } = found.value ?? { prompts: [], answers: [] };
  if (!answers.length) return null;
  const shown = isAll.value || answers.length <= FEW ? answers
    : [answers[0], ...answers.slice(1 - FEW)];
  return html`<section class="stack tight" aria-labelledby="samples">
    <div class="row spread"><h2 id="samples">What it answers to held-out prompts</h2>
      ${(answers.length > FEW || prompts.length > FEW_PROMPTS) && html`<button class="quiet small"
        aria-pressed=${isAll.value} onClick=${() => { isAll.value = !isAll.value; }}>All
        ${" "}${prompts.length} prompts, ${answers.length} times</button>`}
    </div>
    <div class="columns">${prompts.slice(0, isAll.value ? prompts.length : FEW_PROMPTS).map(
      (each, place) => html`<article class="answer" key=${place}>
      <h3 class="prompt" tabindex="0">${readable(each.prompt)}</h3>
      <dl class="by-step">${shown.map(({ step, stage, texts }) => html`<div
        key=${`${stage}${step}`}>
        <dt>step ${step}${stage ? `, ${stage}` : ""}</dt>
        <dd>${texts[place] === undefined ? "–" : texts[place].trim() || "(nothing)"}</dd></div>`)}
        <div class="wanted"><dt>answer in the rows</dt><dd>${each.expected.trim()}</dd></div></dl>
    </article>`)}</div>
  </section>`;
}

/** A prompt without the marks of its chat template, as far as they are of the usual kinds. */
export function readable(prompt) {
  return prompt.replace(/<\|?[\w/]+\|?>((system|user|assistant)\b)?|\[\/?INST\]/g, " ")
    .replace(/\s+/g, " ").trim();
}
