// Home: all jobs, newest first, with what each is at and what can be done about it.

import { bytes, loss, plural, seconds, when } from "../format.js";
import { html, useComputed, useEffect, useSignal } from "../html.js";
import { jobList, jobs } from "../live.js";
import { JobActions } from "../parts/job_actions.js";
import { methodOf, nameOf, share } from "../parts/job_words.js";
import { Empty } from "../parts/notes.js";
import { href, query, setQuery } from "../router.js";

export const title = "Jobs";

const ACTIVE = ["running", "queued", "validating_files", "paused"];
const SHOWN = [["", "All"], ["active", "Active"], ["finished", "Finished"], ["failed", "Failed"]];

export function View() {
  const shown = useComputed(() => jobList.value.filter(isShown));
  const isKnown = jobs.value !== null;
  return html`<div class="view">
    <header class="head">
      <div><h1 tabindex="-1">Jobs</h1><p class="sub"><${Summary} /></p></div>
      <a class="button primary" href=${href("/new")}>New adapter</a>
    </header>
    ${isKnown && jobList.value.length > 0 && html`<${Filter} />`}
    ${!isKnown && html`<p class="soft late">Loading…</p>`}
    ${isKnown && jobList.value.length === 0 && html`<${Empty} title="No jobs yet">
      <p>Drop a file of questions and answers and choose a method. A small model learns from some
        hundred rows in minutes, and nothing leaves this machine.</p>
      <p><a class="button primary" href=${href("/new")}>Tune the first adapter</a></p><//>`}
    ${jobList.value.length > 0 && shown.value.length === 0 && html`<p class="soft">
      No job fits this filter.</p>`}
    ${shown.value.length > 0 && html`<ul class="jobs">
      ${shown.value.map((job) => html`<${Row} key=${job.id} job=${job} />`)}</ul>
      <${Notify} />`}
  </div>`;
}

function isShown(job) {
  const wanted = query.value.get("show") ?? "";
  const text = (query.value.get("find") ?? "").toLowerCase();
  const isWanted = {
    "": true, active: ACTIVE.includes(job.status), finished: job.status === "succeeded",
    failed: ["failed", "cancelled"].includes(job.status),
  }[wanted] ?? true;
  return isWanted && `${nameOf(job)} ${job.adapter?.method} ${job.id}`.toLowerCase().includes(text);
}

function Filter() {
  const shown = query.value.get("show") ?? "";
  return html`<div class="row spread">
    <div class="row" role="group" aria-label="Which jobs">
      ${SHOWN.map(([value, name]) => html`<button key=${value} class="quiet small"
        aria-pressed=${shown === value} onClick=${() => setQuery({ show: value })}>${name}
          </button>`)}
    </div>
    <input type="search" placeholder="Filter by name or method" aria-label="Filter" data-filter
      value=${query.value.get("find") ?? ""}
      onInput=${(event) => setQuery({ find: event.target.value })} />
  </div>`;
}

/** A switch; what it does is loaded when it is first used, or was on before. */
function Notify() {
  const module = useSignal(null);
  const load = async () => { module.value = await import("../notify.js"); };
  useEffect(() => { if (localStorage.getItem("gossamer-notify") === "yes") load(); }, []);
  if (!("Notification" in window)) return null;
  const change = async (event) => {
    const wanted = event.target.checked;
    await load();
    await module.value.switchTo(wanted);
    event.target.checked = module.value.isOn.value;
  };
  return html`<label class="row small-text soft"><input type="checkbox" onChange=${change}
    checked=${module.value?.isOn.value ?? false} />Tell me when a job ends</label>`;
}

function Summary() {
  if (jobs.value === null) return "–";
  const count = (status) => jobList.value.filter((job) => job.status === status).length;
  const waiting = jobList.value.filter((job) => job.status === "queued");
  const parts = [];
  if (count("running")) parts.push(`${count("running")} running`);
  if (waiting.length) {
    const reason = waiting.at(-1).progress?.reason;
    parts.push(`${waiting.length} waiting${reason ? ` (${reason})` : ""}`);
  }
  if (count("paused")) parts.push(`${count("paused")} paused`);
  return parts.join(", ") || (jobList.value.length ? "Nothing is running." : "");
}

function Row({ job }) {
  return html`<li class="job ${job.status}">
    <div class="what">
      <a class="name cut" href=${href(`/jobs/${job.id}`)}>${nameOf(job)}</a>
      <span class="soft small-text">${methodOf(job)}</span>
    </div>
    <div class="state"><${State} job=${job} /></div>
    <${JobActions} job=${job} />
  </li>`;
}

function State({ job }) {
  const at = job.progress ?? {};
  if (job.status === "running" || job.status === "paused") {
    const left = Number.isFinite(at.seconds_left) ? `${seconds(at.seconds_left)} left` : "";
    const where = at.steps ? `step ${at.step ?? 0} of ${at.steps}` : job.target ? "at work"
      : "starting";
    const isPaused = job.status === "paused";
    return html`<div class="row small-text spread"><span>${isPaused ? "paused, " : ""}${where}
      </span>
        <span class="soft">${isPaused ? "" : left}</span></div>
      <progress class=${isPaused ? "resting" : ""} max="100"
        value=${share(job) ?? (job.target ? undefined : 0)}
        aria-label=${`Progress of ${nameOf(job)}`} />
      <p class="soft small-text">${at.reason ?? html`<${Losses} at=${at} />`}</p>`;
  }
  if (job.status === "succeeded") {
    return html`<p class="small-text"><span class="good">Done</span> ${when(job.finished_at)}</p>
      <p class="soft small-text"><${Result} job=${job} /></p>`;
  }
  if (job.status === "failed") {
    return html`<p class="small-text"><span class="bad">Failed:</span> ${job.error?.message}</p>`;
  }
  if (job.status === "cancelled") {
    return html`<p class="soft small-text">Stopped ${when(job.finished_at)}</p>`;
  }
  const word = job.status === "validating_files" ? "Checking its data" : "Waiting";
  return html`<p class="soft small-text">${word}${at.reason ? `: ${at.reason}` : ""}</p>`;
}

/** What a job that is done has come to. */
function Result({ job }) {
  const { result, kind } = job;
  if (result?.export) {
    const { name, bytes: size, what, is_there: isThere } = result.export;
    return isThere ? `${what} ${name}, ${bytes(size)}` : `${what} ${name}, removed since`;
  }
  if (kind === "verify") {
    return result?.passed ? html`<span class="good">served as it was trained</span>`
      : html`<span class="bad">answers differ: see the job</span>`;
  }
  if (kind === "compare") {
    return `${plural(Object.keys(result?.models ?? {}).length, "adapter")} served`;
  }
  return html`<${Losses} at=${job.progress ?? {}} />`;
}

function Losses({ at }) {
  const parts = [];
  if (Number.isFinite(at.train_loss)) parts.push(`training loss ${loss(at.train_loss)}`);
  if (Number.isFinite(at.valid_loss)) parts.push(`held-out ${loss(at.valid_loss)}`);
  return parts.join(" · ");
}
