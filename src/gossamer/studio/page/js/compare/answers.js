// What all runs have answered to the same held-out prompts at their end, in columns.

import { get } from "../api.js";
import { html, useEffect, useSignal } from "../html.js";
import { readable } from "../job/samples.js";
import { isSame } from "../new/draft.js";
import { nameOf } from "../parts/job_words.js";

const MOST = 5;

/** `again` is anything that changes when there may be more answers. */
export function Answers({ runs, again = "" }) {
  const found = useSignal(new Map());
  const ids = [...new Set(runs.map(({ job }) => job.of ?? job.id))];
  useEffect(() => {
    for (const id of ids) {
      get(`/v1/fine_tuning/jobs/${id}/samples`).then((answer) => {
        found.value = new Map(found.value).set(id, answer);
      }, () => {}); // A run that is gone has no column.
    }
  }, [ids.join(), again]);

  const known = runs.map(({ job }) => columnOf(job, found.value.get(job.of ?? job.id)))
    .filter((column) => column?.last);
  if (!known.length) return null;
  const [{ prompts, before }] = known;
  const alike = known.filter((column) => isSame(column.prompts, prompts));
  const others = known.length - alike.length;
  return html`<section class="stack tight" aria-labelledby="answers">
    <h2 id="answers">Answers to held-out prompts</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Answers of the runs">
      <table class="answers stacked"><thead><tr><th>Prompt</th><th>Answer in the rows</th>
        ${before && html`<th>Before training</th>`}
        ${alike.map(({ job, last }) => html`<th key=${job.id}>${nameOf(job)}
          <span class="soft small-text"> step ${last.step}</span></th>`)}
        </tr></thead>
      <tbody>${prompts.slice(0, MOST).map(({ prompt, expected }, place) => html`<tr key=${place}>
        <th scope="row">${readable(prompt)}</th>
        <td class="soft" data-label="In the rows">${expected.trim()}</td>
        ${before && html`<td data-label="Before">${before.texts[place]?.trim() || "–"}</td>`}
        ${alike.map(({ job, last }) => html`<td key=${job.id} data-label=${nameOf(job)}>
          ${last.texts[place]?.trim() || "–"}</td>`)}</tr>`)}</tbody>
      </table></div>
    ${others > 0 && html`<p class="soft small-text">${others} of these runs held out other rows, so
      their answers are to other prompts.</p>`}
  </section>`;
}

/** What one run has answered last, and the base model before it; a run of a comparison, which is
 * one job with all runs' answers, has its own by its name. */
function columnOf(job, samples) {
  if (!samples) return null;
  const { prompts, answers } = samples;
  const [, run] = job.id.split("/");
  const own = run ? answers.filter((each) => each.run === run) : answers;
  const before = answers.find((each) => (run ? each.run === null : each.step === 0));
  return { job, prompts, before, last: own.at(-1) };
}
