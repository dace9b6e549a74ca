// What all runs have answered to the same held-out prompts at their end, in columns.

import { get } from "../api.js";
import { html, useEffect, useSignal } from "../html.js";
import { readable } from "../job/samples.js";
import { isSame } from "../new/draft.js";
import { nameOf } from "../parts/job_words.js";

const MOST = 5;

export function Answers({ runs }) {
  const found = useSignal(new Map());
  const ids = runs.map(({ job }) => job.id);
  useEffect(() => {
    for (const id of ids.filter((each) => !found.value.has(each))) {
      get(`/v1/fine_tuning/jobs/${id}/samples`).then((answer) => {
        found.value = new Map(found.value).set(id, answer);
      }, () => {}); // A run that is gone has no column.
    }
  }, [ids.join()]);

  const known = runs.map(({ job }) => ({ job, samples: found.value.get(job.id) }))
    .filter(({ samples }) => samples?.answers.length);
  if (!known.length) return null;
  const { prompts, answers } = known[0].samples;
  const alike = known.filter(({ samples }) => isSame(samples.prompts, prompts));
  const before = answers.find(({ step }) => step === 0);
  const others = known.length - alike.length;
  return html`<section class="stack tight" aria-labelledby="answers">
    <h2 id="answers">Answers to held-out prompts</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Answers of the runs">
      <table class="answers"><thead><tr><th>Prompt</th><th>In the rows</th>
        ${before && html`<th>Before training</th>`}
        ${alike.map(({ job, samples }) => html`<th key=${job.id}>${nameOf(job)}
          <span class="soft small-text"> step ${samples.answers.at(-1).step}</span></th>`)}
        </tr></thead>
      <tbody>${prompts.slice(0, MOST).map(({ prompt, expected }, place) => html`<tr key=${place}>
        <th scope="row">${readable(prompt)}</th><td class="soft">${expected.trim()}</td>
        ${before && html`<td>${before.texts[place]?.trim() || "–"}</td>`}
        ${alike.map(({ job, samples }) => html`<td key=${job.id}>
          ${samples.answers.at(-1).texts[place]?.trim() || "–"}</td>`)}</tr>`)}</tbody>
      </table></div>
    ${others > 0 && html`<p class="soft small-text">${others} of these runs held out other rows, so
      their answers are to other prompts.</p>`}
  </section>`;
}
