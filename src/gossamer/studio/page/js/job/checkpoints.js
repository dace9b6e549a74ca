// What a job has saved on its way, and how good it was there.

import { get } from "../api.js";
import { loss, when } from "../format.js";
import { html, useEffect, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";
import { href } from "../router.js";

export function Checkpoints({ job }) {
  const found = useSignal(null);
  const problem = useSignal(null);
  useEffect(() => {
    get(`/v1/fine_tuning/jobs/${job.id}/checkpoints?limit=100`).then((answer) => {
      found.value = answer.data;
    }, (error) => { problem.value = error; });
  }, [job.id, job.status, Math.floor((job.progress?.step ?? 0) / 25)]);

  if (problem.value) return html`<${Problem} error=${problem.value} />`;
  if (!found.value) return null;
  if (!found.value.length) return html`<p class="soft">Nothing has been saved yet.</p>`;
  return html`<div class="scroll"><table class="compact">
    <thead><tr><th class="number">Step</th><th class="number">Training loss</th>
      <th class="number">Held-out loss</th><th>Saved</th><th></th></tr></thead>
    <tbody>${found.value.map((each) => html`<tr key=${each.id}>
      <td class="number">${each.step_number}</td>
      <td class="number">${loss(each.metrics.train_loss)}</td>
      <td class="number">${loss(each.metrics.full_valid_loss ?? each.metrics.valid_loss)}</td>
      <td>${when(each.created_at)}</td>
      <td><a href=${href(`/chat?models=${encodeURIComponent(each.fine_tuned_model_checkpoint)}`)}
        aria-label=${`Chat with checkpoint ${each.step_number}`}>Chat</a></td></tr>`)}
    </tbody></table></div>`;
}
