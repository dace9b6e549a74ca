// The page of a job that is no tuning run: a comparison, a proof or an export.

import { del, get } from "../api.js";
import { bytes, loss, seconds } from "../format.js";
import { html, useSignal } from "../html.js";
import { Answers } from "../compare/answers.js";
import { Events } from "../job/events.js";
import { Figures } from "../job/figures.js";
import { useLife } from "../job/life.js";
import { Tabs } from "../job/tabs.js";
import { jobs } from "../live.js";
import { isMine, KeepAs } from "../parts/keep.js";
import { Confirmed, Problem } from "../parts/notes.js";
import { href } from "../router.js";
import { runOf, useComparison } from "./comparison.js";

/** What such a job is at and what it has found; `null` for a tuning run, which has a curve. */
export function WorkOf({ job }) {
  const Shown = { compare: Comparison, verify: Proof, export: Export }[job.kind];
  const life = useLife(job);
  return html`<${Shown} job=${job} />
    ${job.target ? html`<section class="stack" aria-labelledby="events">
      <h2 id="events">Events</h2><${Events} job=${job} life=${life} /></section>`
    : html`<${Tabs} job=${job} life=${life} />`}`;
}

export const isWork = (job) => ["compare", "verify", "export"].includes(job.kind);

function Comparison({ job }) {
  const found = useComparison(job);
  if (!found) return html`<${Figures} job=${job} /><p class="soft late">Loading the runs…</p>`;
  const done = found.runs.filter((run) => run.figures);
  return html`<${Figures} job=${job} /><div class="stack tight">
    <div class="row spread"><h2>Runs</h2>
      <a class="button small" href=${href(`/compare?jobs=${job.id}`)}>Open in Compare</a></div>
    <div class="scroll" tabindex="0" role="region" aria-label="Runs of the comparison"><table
      class="compact stacked"><thead><tr><th>Run</th><th class="number">Seed</th><th>State</th>
        <th class="number">Held-out loss</th><th class="number">Right</th>
        <th class="number">Time</th><th><span class="hidden-text">Actions</span></th></tr></thead>
      <tbody>
        ${found.base && html`<tr><td>base model</td><td></td><td></td>
          <td class="number" data-label="Held-out loss">${loss(found.base.loss)}</td>
          <td class="number" data-label="Right">${right(found.base)}</td><td></td><td></td></tr>`}
        ${found.runs.map((run) => html`<${Run} key=${run.id} run=${run} job=${job} />`)}
      </tbody></table></div></div>
    <${Answers} again=${`${job.status} ${done.length}`}
      runs=${done.map((run) => runOf(job, run, found.base))} />`;
}

function Run({ run, job }) {
  const scored = run.figures?.evaluation;
  const chat = encodeURIComponent(`${job.model},${run.model}`);
  return html`<tr><td><b>${run.label}</b></td>
    <td class="number" data-label="Seed">${run.seed}</td>
    <td class=${run.error ? "bad" : ""}>${run.error ?? STATES[run.status] ?? run.status}</td>
    <td class="number" data-label="Held-out loss">${loss(scored?.loss)}</td>
    <td class="number" data-label="Right">${right(scored)}</td>
    <td class="number" data-label="Time">${seconds(run.figures?.seconds)}</td>
    <td>${run.model && html`<div class="row"><a class="button small"
      href=${href(`/chat?models=${chat}`)}
      aria-label=${`Chat with ${run.label}, seed ${run.seed}`}>Chat</a>
      ${isMine(run.model) && html`<${KeepAs} model=${run.model} />`}</div>`}</td></tr>`;
}

const STATES = { succeeded: "done", queued: "waits", running: "trains" };

function right(scored) {
  return Number.isFinite(scored?.right) ? `${scored.right} of ${scored.rows}` : "–";
}

function Proof({ job }) {
  const { result } = job;
  if (!result) {
    return html`<p class="soft">The result and the base model answer the same prompts in one batch;
      then the merged model and PEFT are asked alone, and the tokens are compared.</p>`;
  }
  return html`<p class=${`note ${result.passed ? "" : "bad"}`} role="status">
      ${result.passed ? "Served as it was trained." : "Served answers differ."}</p>
    <p>${result.words}</p>`;
}

function Export({ job }) {
  const found = job.result?.export;
  if (!found) return html`<p class="soft">What is made will be here to download.</p>`;
  if (!found.is_there) return html`<p class="soft">${found.name} has been removed since.</p>`;
  return html`<div class="stack tight"><p><b>${found.name}</b>: ${found.what},
      ${" "}${bytes(found.bytes)}</p>
    <p class="soft small-text">On this machine it lies in the data folder, in
    ${" "}<code>exports/${job.id}/${found.name}</code>.</p></div>
    <${Removal} job=${job} name=${found.name} />`;
}

function Removal({ job, name }) {
  const problem = useSignal(null);
  const isBusy = useSignal(false);

  async function remove() {
    isBusy.value = true;
    problem.value = null;
    try {
      await del(`/studio/api/exports/${job.id}`);
      const left = await get(`/v1/fine_tuning/jobs/${job.id}`);
      jobs.value = new Map(jobs.value).set(job.id, left);
    } catch (error) {
      problem.value = error;
    }
    isBusy.value = false;
  }

  return html`<div class="row"><${Confirmed} verb="Delete" name=${name} isBusy=${isBusy.value}
      onYes=${remove}>The files go, with no way back. The result that they were made of stays, and
      can be exported again.<//><${Problem} error=${problem.value} /></div>`;
}
