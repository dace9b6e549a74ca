// What can be done with the model that a job has made.

import { html } from "../html.js";
import { ProofAndExport } from "../kinds/buttons.js";
import { nameOf, shortName } from "./job_words.js";
import { downloadOf, isMine, KeepAs } from "./keep.js";
import { Menu } from "./menu.js";
import { Restore } from "./trash.js";

export function Results({ job }) {
  const model = job.fine_tuned_model;
  if (!model) return null;
  if (job.deleted_at) {
    return isMine(model) && html`<span class="soft">Its model was deleted.</span>
      <${Restore} id=${model} name=${shortName(model)} />`;
  }
  return html`${isMine(model) && html`<${KeepAs} model=${model} alias=${job.alias} />`}
    <${Menu} name=${nameOf(job)}><${ProofAndExport} model=${model} name=${nameOf(job)} />
      ${isMine(model) && html`<a class="button small" href=${downloadOf(model)} download>Download
        </a>`}<//>`;
}
