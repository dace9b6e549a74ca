// Part 3 of a new adapter: its name, how long it learns, and the start.

import { post } from "../api.js";
import { catalogue } from "../catalogue.js";
import { bytes, expectedTime, plural } from "../format.js";
import { html, useSignal } from "../html.js";
import { jobs } from "../live.js";
import { Problem } from "../parts/notes.js";
import { go, setQuery } from "../router.js";
import { Commands } from "./commands.js";
import { bodyFor, comparisonBody, draft } from "./draft.js";
import { estimateNow } from "./estimates.js";
import { SettingsForm } from "./settings.js";

const NAME = /^[A-Za-z0-9._-]{0,64}$/;

export function Run() {
  const problem = useSignal(null);
  const isBusy = useSignal(false);
  const { file, methods, name, training, held } = draft.value;
  const settings = catalogue.value.training;
  const missing = whatIsMissing(methods, name, held);

  async function start() {
    isBusy.value = true;
    problem.value = null;
    try {
      const job = methods.length > 1 ? await post("/studio/api/comparisons", comparisonBody())
        : await post("/v1/fine_tuning/jobs", bodyFor(methods[0]));
      const known = new Map(jobs.value).set(job.id, job);
      jobs.value = new Map([...known].sort(([, a], [, b]) => b.created_at - a.created_at));
      go(`/jobs/${job.id}`);
    } catch (error) {
      problem.value = error;
    }
    isBusy.value = false;
  }

  if (!file) return html`<${Later} />`;
  return html`<section class="part" aria-labelledby="part-run">
    <h2 id="part-run"><span class="step">3</span> Run</h2>
    <div class="stack">
      <div class="row wide-gaps">
        <label class="stack tight">Name
          <input class="name" value=${name} maxlength="64" spellcheck="false" autocomplete="off"
            placeholder="letters, digits, . _ -"
            onInput=${(event) => setQuery({ name: event.target.value })} /></label>
        <label class="stack tight">Passes over the rows
          <input class="short" type="number" min="0.1" step="any" value=${training.epochs ?? 3}
            onChange=${(event) => setQuery({ "t.epochs": event.target.value })} /></label>
        ${methods.length > 1 && html`<${Comparison} />`}
      </div>
      <${Cost} />
      <div class="row">
        <button class="primary" disabled=${Boolean(missing) || isBusy.value} onClick=${start}>
          ${methods.length > 1 ? `Compare ${methods.length} methods` : "Start"}</button>
        <span class="soft">${missing}</span>
      </div>
      <${Problem} error=${problem.value} />
      <div>
        <details><summary>All settings of a run</summary>
          <${SettingsForm} settings=${settings} values=${training} prefix="t." /></details>
        <${Commands} filename=${`${name || "rows"}.jsonl`} />
      </div>
    </div>
  </section>`;
}

function Later() {
  return html`<section class="part later"><h2><span class="step">3</span> Run</h2>
    <p class="soft">A name, what it will cost, and the start.</p></section>`;
}

/** What is asked only where several methods are compared. */
function Comparison() {
  const { seeds, score } = draft.value;
  return html`<label class="stack tight">Seeds
      <input class="short" type="number" min="1" max="10" value=${seeds}
        onChange=${({ target }) => setQuery({ seeds: target.value === "1" ? "" : target.value })} />
    </label>
    <label class="row"><input type="checkbox" checked=${score === "auto"}
      onChange=${({ target }) => setQuery({ score: target.checked ? "auto" : "" })} />
      Score answers too, which takes longer</label>`;
}

function whatIsMissing(methods, name, held) {
  if (!methods.length) return "Tick a method.";
  if (methods.length > 1 && !held.startsWith("file-") && !Number(held)) {
    return "A comparison needs held-out rows to judge by.";
  }
  return NAME.test(name) ? "" : "A name has letters, digits, dots, dashes and underscores.";
}

/** What the server says that the job comes to, or why it cannot be. */
function Cost() {
  const found = estimateNow();
  if (found?.problem) return html`<p class="note warn" role="status">${found.problem}</p>`;
  if (!found?.estimate) return found?.isAsked ? html`<p class="soft late">Estimating…</p>` : null;
  const { estimate } = found;
  const { steps, rows, memory, problems = {} } = estimate;
  const { methods, seeds } = draft.value;
  const runs = (methods.length - Object.keys(problems).length) * (Number(seeds) || 1);
  const isOne = methods.length < 2;
  const parts = [steps && plural(steps, "step"), !isOne && `in ${plural(runs, "run")}`,
    rows && `${plural(rows, "row")} ${memory ? "to train on" : "in the file"}`,
    memory && `${bytes(memory)} of memory`,
    expectedTime(estimate) && `${expectedTime(estimate)} of training`];
  return html`<div class="cost" aria-live="polite"><p>${parts.filter(Boolean).join(" · ")}</p>
    <p class="soft small-text">${sourceOf(estimate, isOne)}</p>
    ${Object.entries(problems).map(([label, problem]) => html`<p key=${label} class="note warn">
      ${label} cannot be trained, and the others go on: ${problem}</p>`)}</div>`;
}

/** Where the figures come from. */
function sourceOf({ seconds: time, seconds_range: range, memory }, isOne) {
  if (!memory) return "";
  const most = isOne ? "Memory is reckoned from the model and the rows"
    : "The runs take turns, so memory is that of the largest";
  return Number.isFinite(time) ? `${most}; the time is that of runs of this kind on this machine.`
    : range ? `${most}, time from how fast this machine multiplies, until a run was measured.`
    : `${most}; how long it takes shows after the first steps.`;
}
