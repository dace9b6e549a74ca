// The curves of a job, live: training loss faint and smoothed, held-out loss as points.

import { columns, summary, verdict } from "../curves.js";
import { loss } from "../format.js";
import { html, useMemo, useSignal, useEffect } from "../html.js";
import { topic } from "../live.js";
import { Chart, styleOf } from "../parts/chart.js";
import { nameOf } from "../parts/job_words.js";
import { href, query, setQuery } from "../router.js";
import { savedAndResumed } from "./life.js";

const X_NAMES = [["step", "Steps"], ["tokens", "Tokens"], ["seconds", "Time"]];
const SAY_EVERY_MS = 10_000;
const MOST_LISTED = 6;

export function Curve({ job, told }) {
  const lines = topic(`job:${job.id}`).value;
  const axis = query.value.get("x") ?? "step";
  const found = useMemo(() => columns(lines, axis), [lines, axis]);
  const shown = useMemo(() => linesOf(found), [found]);
  const { saved, resumed } = useMemo(() => savedAndResumed(told), [told]);
  if (lines === null) return html`<p class="soft late">Loading the curve…</p>`;
  if (!found.xs.length) {
    return job.status === "running"
      ? html`<p class="soft">The curve begins with the first step.</p>` : null;
  }
  return html`<section class="stack tight" aria-labelledby="curve">
    <div class="row spread"><h2 id="curve">Loss</h2>
      <div class="row" role="group" aria-label="Horizontal axis">
        ${X_NAMES.map(([value, name]) => html`<button key=${value} class="quiet small"
          aria-pressed=${axis === value}
          onClick=${() => setQuery({ x: value === "step" ? "" : value })}>${name}</button>`)}
      </div></div>
    <${Chart} xs=${found.xs} xName=${axis} lines=${shown} 
      marks=${marksOf(lines, found, axis, { saved, resumed })} format=${loss}
      summary=${summary(found)} file=${`${nameOf(job)}-curve.png`} />
    ${(saved.length > 0 || resumed.length > 0) && html`<p class="soft small-text">
      ${saved.length > 0 && html`▲ saved after step ${listed(saved)}. `}
      ${resumed.length > 0 && html`┆ went on from step ${listed(resumed)} after a break.`}</p>`}
    <${Verdict} job=${job} found=${found} saved=${saved} />
    <${Spoken} text=${summary(found)} isLive=${job.status === "running"} />
  </section>`;
}

function linesOf(found) {
  const held = found.valid.some((value) => value !== null);
  return [
    { name: "training, each step", style: styleOf(0), values: found.train, faint: true },
    { name: "training", style: styleOf(0), values: found.smooth, bold: true },
    ...(held ? [{ name: "held out", style: styleOf(1), values: found.valid, points: true }] : []),
  ];
}

function marksOf(lines, found, axis, { saved, resumed }) {
  const place = (step) => (axis === "step" ? step
    : found.xs[Math.max(0, found.steps.findIndex((each) => each >= step))]);
  const stages = lines.filter((line) => "stage_steps" in line && line.step > 0);
  return [
    ...stages.map((line) => ({ x: place(line.step), name: line.stage, kind: "stage" })),
    ...saved.map((step) => ({ x: place(step), name: "", kind: "saved" })),
    ...resumed.map((step) => ({ x: place(step), name: "resumed", kind: "resumed" })),
  ];
}

/** "50, 100 and 150", of many the last ones. */
function listed(steps) {
  const rising = [...new Set(steps)].sort((one, other) => one - other);
  const shown = rising.slice(-MOST_LISTED);
  const text = shown.length > 1 ? `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`
    : String(shown[0]);
  return rising.length > shown.length ? `… ${text}` : text;
}

function Verdict({ job, found, saved }) {
  const { text, tone, best, rose } = verdict(found, saved);
  if (!text) return null;
  const isOver = job.status === "succeeded";
  const tuned = saved.includes(best) && !isOver;
  return html`<p class="verdict ${tone}">${text}
    ${rose && tuned && html` <a href=${href(`/jobs/${job.id}?tab=checkpoints`)}>Use it</a>.`}
    ${rose && isOver && html` <a href=${href(`/new?from=${job.id}`)}>Run it again</a> for ${best}
      ${" "}steps, or with load_best_at_end.`}</p>`;
}

/** Says how the run goes at most every ten seconds, not with every step. */
function Spoken({ text, isLive }) {
  const said = useSignal("");
  useEffect(() => {
    if (!isLive) return undefined;
    const timer = setTimeout(() => { said.value = text; }, said.value ? SAY_EVERY_MS : 0);
    return () => clearTimeout(timer);
  }, [isLive, Math.floor(Date.now() / SAY_EVERY_MS)]);
  return html`<p class="hidden-text" aria-live="polite">${said.value}</p>`;
}
