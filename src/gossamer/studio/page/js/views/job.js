// One job: how it goes, what it says, and what it left.

import { ApiProblem, get } from "../api.js";
import { html, useEffect, useSignal } from "../html.js";
import { Curve } from "../job/curve.js";
import { Figures } from "../job/figures.js";
import { useLife } from "../job/life.js";
import { Samples } from "../job/samples.js";
import { Tabs } from "../job/tabs.js";
import { follow, jobs, topic } from "../live.js";
import { JobActions } from "../parts/job_actions.js";
import { methodOf, nameOf } from "../parts/job_words.js";
import { Problem } from "../parts/notes.js";
import { Results } from "../parts/results.js";
import { href } from "../router.js";
import { isWork, WorkOf } from "../kinds/result.js";

export const title = "Job";

export function View({ id }) {
  const problem = useSignal(null);
  useEffect(() => follow(`job:${id}`), [id]);
  const job = jobs.value?.get(id);
  useEffect(() => {
    if (jobs.value !== null && !job) {
      get(`/v1/fine_tuning/jobs/${encodeURIComponent(id)}`).then((found) => {
        jobs.value = new Map(jobs.value).set(id, found);
      }, (error) => { problem.value = error; });
    }
  }, [jobs.value === null, !job]);

  if (!job) {
    const isMissing = problem.value instanceof ApiProblem && problem.value.status === 404;
    return html`<div class="view"><h1 tabindex="-1">${isMissing ? "No such job" : "Job"}</h1>
      ${problem.value ? html`<${Problem} error=${problem.value} />`
        : html`<p class="soft late">Loading…</p>`}
      <p><a href=${href("/")}>All jobs</a></p></div>`;
  }
  return html`<div class="view">
    <header class="head">
      <div><h1 tabindex="-1">${nameOf(job)}</h1>
        <p class="sub">${methodOf(job)}${job.target ? "" : ` on ${job.model}`}, ${words(job)}</p>
      </div>
      <div class="row"><${JobActions} job=${job} /><${Results} job=${job} /></div>
    </header>
    ${job.error && html`<p class="note bad">${job.error.message}</p>`}
    ${isWork(job) ? html`<${WorkOf} job=${job} />` : html`<${Figures} job=${job} />
      <${Course} job=${job} />`}
  </div>`;
}

/** All that changes as a job goes on. */
function Course({ job }) {
  const life = useLife(job);
  const lines = topic(`job:${job.id}`).value ?? [];
  const evaluations = lines.filter((line) => "eval_loss" in line).length;
  return html`<${Curve} job=${job} told=${life.told} />
    <${Samples} job=${job} evaluations=${evaluations} />
    <${Tabs} job=${job} life=${life} />`;
}

function words(job) {
  const status = { validating_files: "checking its data", queued: "waiting" }[job.status]
    ?? job.status;
  const reason = job.progress?.reason ? `: ${job.progress.reason}` : "";
  const again = job.attempt > 1 ? `, attempt ${job.attempt}` : "";
  const from = job.resumed_from ? `, went on from step ${job.resumed_from}` : "";
  return `${status}${reason}${again}${from}`;
}
