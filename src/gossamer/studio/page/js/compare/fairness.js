// Whether what differs between runs is the method alone: losses of others say nothing.

import { html } from "../html.js";

/** What must be the same, and where it stands in a job; seeds are judged by groups.
 * @type {[string, ((job: any) => any)?][]} */
const SAME = [
  ["rows", (job) => [job.training_file, job.training?.leave_out]],
  ["held-out rows", (job) => [job.validation_file, job.training?.eval_split]],
  ["seeds"], ["steps", (job) => job.progress.steps],
  ["base model", (job) => job.model],
  ["how far they are", (job) => job.status === "succeeded"],
];

export function Fairness({ runs, groups }) {
  if (runs.length < 2) return null;
  // Several seeds are fair if each method has had the same ones.
  const seeds = groups.map((group) => group.runs.map(({ job }) => job.seed).sort().join());
  const hasSameSeeds = new Set(seeds).size === 1;
  // A share of the rows is held out by the seed, too.
  const areHeldBySeed = runs.some(({ job }) => !job.validation_file && job.training?.eval_split);
  const judged = SAME.map(([name, value]) => {
    if (name === "seeds") return [name, hasSameSeeds];
    const isSame = new Set(runs.map(({ job }) => JSON.stringify(value(job)))).size === 1;
    return [name, isSame && (name !== "held-out rows" || hasSameSeeds || !areHeldBySeed)];
  });
  const differing = judged.filter(([, isSame]) => !isSame).map(([name]) => name);
  return html`<div class="stack tight">
    <p class="row wide-gaps small-text">Same ${judged.map(([name, isSame]) => html`
      <span key=${name}>${name}: <b class=${isSame ? "good" : "warn"}>${isSame ? "yes" : "no"}</b>
      </span>`)}</p>
    ${differing.length > 0 && html`<p class="note warn">These runs differ in
      ${" "}${differing.join(", ")}: their losses do not say which method is better.</p>`}
  </div>`;
}
