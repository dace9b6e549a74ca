// The figures of the runs in a table, the best of each column in bold.

import { bytes, count, loss, seconds } from "../format.js";
import { html } from "../html.js";
import { isMine, KeepAs } from "../parts/keep.js";
import { chatWith, methodOf, nameOf } from "../parts/job_words.js";
import { href } from "../router.js";

/** Name, label, and how a number of it is written.
 * @type {[string, string, (number: number) => string][]} */
const FIGURES = [
  ["held", "Held-out loss", loss], ["train", "Training loss", loss],
  ["weights", "Trained weights", count], ["memory", "Estimated memory", bytes],
  ["seconds", "Time", seconds],
];

const shown = (format, value) => (Number.isFinite(value) ? format(value) : "–");

function bestOf(runs, name) {
  const values = runs.map(({ figures }) => figures[name]).filter(Number.isFinite);
  // Where all are alike none is the best.
  return new Set(values).size > 1 ? Math.min(...values) : NaN;
}

/** The address of a talk with all that the runs made, beside their base. */
export function chatWithAll(runs) {
  const made = runs.map(({ job }) => job.fine_tuned_model && (job.alias || job.fine_tuned_model));
  const names = [runs[0].job.model, ...made.filter(Boolean)];
  return `/chat?models=${encodeURIComponent(names.join(","))}`;
}

export function RunTable({ runs }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Figures of the runs">
    <table>
    <thead><tr><th>Run</th><th>Method</th>
      ${FIGURES.map(([name, label]) => html`<th key=${name} class="number">${label}</th>`)}
      <th><span class="hidden-text">Actions</span></th></tr></thead>
    <tbody>${runs.map(({ job, figures }) => html`<tr key=${job.id}>
      <td><a href=${href(`/jobs/${job.of ?? job.id}`)}>${nameOf(job)}</a></td>
      <td>${methodOf(job)}</td>
      ${FIGURES.map(([name, , format]) => html`<td key=${name} class="number">
        ${figures[name] === bestOf(runs, name) ? html`<b>${shown(format, figures[name])}</b>`
          : shown(format, figures[name])}</td>`)}
      <td>${job.fine_tuned_model && html`<a aria-label=${`Chat with ${nameOf(job)}`}
        href=${href(chatWith(job))}>Chat</a>`}
        ${job.fine_tuned_model && isMine(job.fine_tuned_model) && html`
          <${KeepAs} model=${job.fine_tuned_model} quiet=${true} />`}
      </td></tr>`)}</tbody></table></div>`;
}

/** The same table for a text. */
export function markdownOf(runs) {
  const head = ["run", "method", ...FIGURES.map(([, label]) => label.toLowerCase())];
  const rows = runs.map(({ job, figures }) => [nameOf(job), methodOf(job),
    ...FIGURES.map(([name, , format]) => {
      const text = shown(format, figures[name]);
      return figures[name] === bestOf(runs, name) ? `**${text}**` : text;
    })]);
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
