// How far a job is, in numbers: of a run, or of all runs of a comparison together.

import { bytes, expectedTime, loss, seconds, when } from "../format.js";
import { html } from "../html.js";
import { share } from "../parts/job_words.js";

export function Figures({ job }) {
  const at = job.progress ?? {};
  const isActive = ["running", "paused"].includes(job.status);
  const isOne = job.kind !== "compare";
  const cells = [
    ["Step", at.steps ? `${at.step ?? 0} of ${at.steps}` : "–"],
    isActive && ["Left", seconds(at.seconds_left ?? NaN)],
    job.finished_at && ["Ended", when(job.finished_at)],
    isOne && ["Training loss", loss(at.train_loss)],
    isOne && ["Held-out loss", loss(at.valid_loss)],
    isOne && isActive && ["Speed", at.tokens_per_second
      ? `${Math.round(at.tokens_per_second)} tokens/s` : "–"],
    ...expected(job.estimate),
  ].filter(Boolean);
  return html`<div class="stack tight">
    ${isActive && html`<progress max="100" value=${share(job) ?? 0} aria-label="Progress"
      class=${job.status === "paused" ? "resting" : ""} />`}
    <dl class="figures-row">${cells.map(([name, value]) => html`<div key=${name}>
      <dt>${name}</dt><dd>${value}</dd></div>`)}</dl></div>`;
}

/** What the job was expected to take, as far as that is known. */
function expected(estimate) {
  return [
    estimate?.memory && ["Memory", `${bytes(estimate.memory)} estimated`],
    estimate && expectedTime(estimate) && ["Training", `${expectedTime(estimate)} estimated`],
  ];
}
