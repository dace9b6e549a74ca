// What can be done to a job, by its state: the buttons, and the calls behind them.

import { post } from "../api.js";
import { html, useRef, useSignal } from "../html.js";
import { jobs } from "../live.js";
import { href } from "../router.js";
import { chatWith, nameOf } from "./job_words.js";
import { Problem } from "./notes.js";

const WORK = {
  running: ["pause", "cancel"],
  queued: ["cancel"],
  validating_files: ["cancel"],
  paused: ["resume", "cancel"],
  cancelled: [],
  succeeded: [],
  failed: [],
};

export function JobActions({ job }) {
  const problem = useSignal(null);
  const isBusy = useSignal(false);
  const dialog = useRef(null);
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

  const words = {
    pause: "Pause", resume: "Resume", cancel: isRunning ? "Stop" : "Cancel",
  };
  const labelled = (verb) => `${words[verb]} ${nameOf(job)}`;
  const click = (verb) => (verb === "cancel" ? dialog.current.showModal() : act(verb));
  return html`<div class="row actions">
    ${(WORK[job.status] ?? []).map((verb) => html`<button key=${verb} class="small"
      disabled=${isBusy.value} aria-label=${labelled(verb)} onClick=${() => click(verb)}>
      ${words[verb]}</button>`)}
    ${job.status === "succeeded" && html`<${Results} job=${job} />`}
    ${["failed", "cancelled"].includes(job.status) && html`<a class="button small"
      href=${href(`/new?from=${job.id}`)} aria-label=${`Again: ${nameOf(job)}`}>Again</a>`}
    <${Problem} error=${problem.value} />
    <dialog ref=${dialog} aria-labelledby=${`stop-${job.id}`}>
      <form method="dialog" class="stack">
        <h2 id=${`stop-${job.id}`}>${words.cancel} “${nameOf(job)}”?</h2>
        <p>It leaves the queue and gives no adapter. What it has saved is kept for 7 days.</p>
        <div class="row">
          <button class="danger" onClick=${() => act("cancel")}>${words.cancel} it</button>
          <button autofocus>Keep it</button>
        </div>
      </form>
    </dialog>
  </div>`;
}

function Results({ job }) {
  const name = nameOf(job);
  return html`${job.fine_tuned_model && html`<a class="button small" href=${href(chatWith(job))}
      aria-label=${`Chat with ${name}`}>Chat</a>`}
    <a class="button small" href=${href(`/compare?jobs=${job.id}`)}
      aria-label=${`Compare ${name}`}>Compare</a>`;
}
