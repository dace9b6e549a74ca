// Finished runs over one another: curves, figures, and whether they may be compared at all.

import { Answers } from "../compare/answers.js";
import { Fairness } from "../compare/fairness.js";
import { groupsOf } from "../compare/groups.js";
import { useRuns } from "../compare/runs.js";
import { Scatter } from "../compare/scatter.js";
import { chatWithAll, markdownOf, RunTable } from "../compare/table.js";
import { columns } from "../curves.js";
import { loss } from "../format.js";
import { html, useMemo } from "../html.js";
import { jobList, jobs } from "../live.js";
import { Chart, styleOf } from "../parts/chart.js";
import { CopyButton } from "../parts/copy.js";
import { methodOf, nameOf } from "../parts/job_words.js";
import { Empty } from "../parts/notes.js";
import { href, query, setQuery } from "../router.js";
import { useComparedRuns } from "../kinds/comparison.js";

export const title = "Compare";

const MOST = 8;
const AXES = [["step", "Steps"], ["tokens", "Tokens"], ["seconds", "Time"]];

export function View() {
  const chosen = (query.value.get("jobs") ?? "").split(",").filter(Boolean).slice(0, MOST);
  const picked = chosen.map((id) => jobs.value?.get(id)).filter(Boolean);
  const single = useRuns(picked.filter(({ kind }) => kind !== "compare"));
  const compared = useComparedRuns(picked);
  const runs = useMemo(() => [...single, ...compared], [single, compared]);
  const groups = useMemo(() => groupsOf(runs), [runs]);
  return html`<div class="view">
    <header class="head"><div><h1 tabindex="-1">Compare</h1>
      <p class="sub">Runs over one another, by what they learnt and what that cost.</p></div>
      ${runs.length > 1 && html`<div class="row">
        <a class="button small" href=${href(chatWithAll(runs))}>Ask them all</a>
        <${CopyButton} text=${markdownOf(runs)} label="Copy as Markdown" /></div>`}
    </header>
    <${Picker} chosen=${chosen} />
    ${runs.length > 0 && html`<${Fairness} runs=${runs} groups=${groups} />
      <${Curves} runs=${runs} /><${RunTable} runs=${runs} /><${Scatter} groups=${groups} />
      <${Answers} runs=${runs} />`}
  </div>`;
}

function Picker({ chosen }) {
  if (jobs.value === null) return html`<p class="soft late">Loading…</p>`;
  const all = jobList.value.filter((job) => job.progress?.step);
  if (!all.length) {
    return html`<${Empty} title="Nothing to compare yet">
      <p>Runs can be compared once they have taken steps.
        ${" "}<a href=${href("/new")}>Tick several methods</a> to run them on the same
        rows.</p><//>`;
  }
  const toggle = (id) => {
    const next = chosen.includes(id) ? chosen.filter((each) => each !== id) : [...chosen, id];
    setQuery({ jobs: next.join(",") });
  };
  return html`<fieldset class="row wide-gaps picks">
    <legend class="hidden-text">Runs to compare</legend>
    ${all.slice(0, 24).map((job) => html`<label key=${job.id} class="row">
      <input type="checkbox" checked=${chosen.includes(job.id)}
        disabled=${!chosen.includes(job.id) && chosen.length >= MOST}
        onChange=${() => toggle(job.id)} />${nameOf(job)}
      <span class="soft small-text">${methodOf(job)}</span></label>`)}
  </fieldset>`;
}

function Curves({ runs }) {
  const axis = query.value.get("x") ?? "step";
  const drawn = useMemo(() => overlay(runs, axis), [runs, axis]);
  if (!drawn.xs.length) return null;
  return html`<section class="stack tight" aria-labelledby="curves">
    <div class="row spread"><h2 id="curves">${drawn.isHeld ? "Held-out loss" : "Training loss"}</h2>
      <div class="row" role="group" aria-label="Horizontal axis">${AXES.map(([value, name]) => html`
        <button key=${value} class="quiet small" aria-pressed=${axis === value}
          onClick=${() => setQuery({ x: value === "step" ? "" : value })}>${name}</button>`)}</div>
            </div>
    <${Chart} xs=${drawn.xs} xName=${axis} lines=${drawn.lines} format=${loss}
      file="compare-curves.png" summary=${drawn.lines.map(({ name, values }) => (
        `${name}: ${loss(values.filter((each) => each !== null).at(-1))}`)).join(", ")} />
  </section>`;
}

/** One table of x values for all runs, with nothing where a run has none. */
function overlay(runs, axis) {
  const found = runs.map(({ job, lines }) => ({ job, ...columns(lines, axis) }));
  const isHeld = found.every(({ valid }) => valid.some((value) => value !== null));
  const xs = [...new Set(found.flatMap((run) => run.xs))].sort((one, other) => one - other);
  const places = new Map(xs.map((x, index) => [x, index]));
  const lines = found.map((run, index) => {
    const values = Array(xs.length).fill(null);
    const source = isHeld ? run.valid : run.smooth;
    run.xs.forEach((x, at) => { if (source[at] !== null) values[places.get(x)] = source[at]; });
    return { name: nameOf(run.job), style: styleOf(index), values, bold: true, points: isHeld };
  });
  return { xs, lines, isHeld };
}
