// The rows that a job learns from, as the check of data found them.

import { html } from "../html.js";
import { Report } from "../new/report.js";

const LEFT_OUT = {
  duplicates: "rows that repeat an earlier one", "near-duplicates": "rows that nearly repeat one",
  "held-out": "rows that ask what a held-out row asks",
};

export function DataOf({ job }) {
  const training = job.training ?? {};
  const left = (training.leave_out ?? []).map((kind) => LEFT_OUT[kind] ?? kind);
  if (training.skip_bad_rows) left.push("rows that cannot be used");
  return html`<div class="stack">
    ${left.length > 0 && html`<p>Left out are ${left.join(", ")}.</p>`}
    <${Report} key=${job.training_file} file=${job.training_file} held=${job.validation_file}
      training=${training} canChoose=${false} /></div>`;
}
