// What can be done to a job, by its state: the buttons, and the calls behind them.

import { post } from "../api.js";
import { html, useSignal } from "../html.js";
import { jobs } from "../live.js";
import { href } from "../router.js";
import { chatWith, nameOf } from "./job_words.js";
import { Confirmed, Problem } from "./notes.js";

const WORK = {
  running: ["pause", "cancel"],
  queued: ["cancel"],
  validating_files: ["cancel"],
  paused: ["resume", "cancel"],
  cancelled: ["resume"],
  succeeded: [],
  failed: [],
};

const WORDS = { pause: "Pause", resume: "Resume" };

export function JobActions({ job }) {
  const problem = useSignal(null);
  const isBusy = useSignal(false);
  const isRunning = job.status === "running";

  async function act(verb) {
    isBusy.value = true;
    problem.value = null;
    try {
      const answer = await post(`/v1/fine_tuning/jobs/${job.id}/${verb}`);
      jobs.value = new Map(jobs.value).set(job.id, answer);
    } catch (error) {
      problem.value = error;
    }
    isBusy.value = false;
  }

  // What has no steps has none to pause at.
  const verbs = WORK[job.status].filter((verb) => verb !== "pause" || !job.target);
  return html`<div class="row actions">
    ${verbs.map((verb) => (verb === "cancel"
      ? html`<${Confirmed} key=${verb} verb=${isRunning ? "Stop" : "Cancel"} name=${nameOf(job)}
          isBusy=${isBusy.value} onYes=${() => act("cancel")}>It leaves the queue and gives no
          result. What it has saved is kept for some days.<//>`
      : html`<button key=${verb} class="small" disabled=${isBusy.value}
          aria-label=${`${WORDS[verb]} ${nameOf(job)}`} onClick=${() => act(verb)}>
          ${WORDS[verb]}</button>`))}
    ${job.status === "succeeded" && html`<${Results} job=${job} />`}
    ${["failed", "cancelled"].includes(job.status) && !job.target && html`<a class="button small"
      href=${href(`/new?from=${job.id}`)} aria-label=${`Again: ${nameOf(job)}`}>Again</a>`}
    <${Problem} error=${problem.value} />
  </div>`;
}

function Results({ job }) {
  const name = nameOf(job);
  const hasModel = job.fine_tuned_model && !job.deleted_at;
  return html`${hasModel && html`<a class="button small" href=${href(chatWith(job))}
      aria-label=${`Chat with ${name}`}>Chat</a>`}
    ${job.result?.export?.is_there && html`<a class="button small" download
      href=${`/studio/api/exports/${job.id}/content`} aria-label=${`Download ${name}`}>
      Download</a>`}
    ${!job.target && html`<a class="button small" href=${href(`/compare?jobs=${job.id}`)}
      aria-label=${`Compare ${name}`}>Compare</a>`}`;
}
