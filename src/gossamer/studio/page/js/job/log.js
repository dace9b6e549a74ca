// The end of what the workers of a job have printed; for administrators.

import { get } from "../api.js";
import { html, useEffect, useSignal } from "../html.js";
import { CopyButton } from "../parts/copy.js";
import { Problem } from "../parts/notes.js";

export function Log({ job }) {
  const found = useSignal(null);
  const problem = useSignal(null);
  useEffect(() => {
    get(`/v1/fine_tuning/jobs/${job.id}/log`).then((answer) => { found.value = answer; },
      (error) => { problem.value = error; });
  }, [job.id, job.status, Math.floor((job.progress?.step ?? 0) / 25)]);

  if (problem.value) return html`<${Problem} error=${problem.value} />`;
  if (!found.value) return html`<p class="soft late">Loading the log…</p>`;
  const { text, is_whole: isWhole } = found.value;
  if (!text) return html`<p class="soft">Nothing has been printed yet.</p>`;
  return html`<div class="stack tight">
    <div class="row spread"><p class="soft small-text">${isWhole ? "All that its workers printed."
      : "The end of what its workers printed."}</p><${CopyButton} text=${text} /></div>
    <pre class="code" tabindex="0">${text}</pre></div>`;
}
