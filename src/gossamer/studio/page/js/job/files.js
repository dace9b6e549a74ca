// The files of a job: the rows it learnt from, and what it left.

import { html } from "../html.js";

export function Files({ job }) {
  const files = [
    ["Training rows", job.training_file], ["Held-out rows", job.validation_file],
    ...job.result_files.map((id) => ["Metrics of every step (CSV)", id]),
  ].filter(([, id]) => id);
  return html`<div class="stack">
    <ul class="plain">${files.map(([name, id]) => html`<li key=${id}>
      <a href=${`/v1/files/${id}/content`} download>${name}</a>
      ${" "}<code class="soft">${id}</code></li>`)}</ul>
    ${job.fine_tuned_model && html`<p>The adapter is served as
      ${" "}<code>${job.fine_tuned_model}</code>${job.alias && html` and as
      ${" "}<code>${job.alias}</code>`}.</p>`}
  </div>`;
}
