// What can be done with the model that a job has made.

import { html } from "../html.js";
import { shortName } from "./job_words.js";
import { downloadOf, isMine, KeepAs } from "./keep.js";
import { Restore } from "./trash.js";

export function Results({ job }) {
  const model = job.fine_tuned_model;
  if (!model || !isMine(model)) return null;
  if (job.deleted_at) {
    return html`<div class="row"><span class="soft">Its model was deleted.</span>
      <${Restore} id=${model} name=${shortName(model)} /></div>`;
  }
  return html`<div class="row">
    <${KeepAs} model=${model} alias=${job.alias} />
    <a class="button small" href=${downloadOf(model)} download>Download</a></div>`;
}
