// The curves of a job, live: training loss faint and smoothed, held-out loss as points.

import { columns, summary, verdict } from "../curves.js";
import { loss } from "../format.js";
import { html, useMemo, useSignal, useEffect } from "../html.js";
import { topic } from "../live.js";
import { Chart, styleOf } from "../parts/chart.js";
import { href, query, setQuery } from "../router.js";

const X_NAMES = [["step", "Steps"], ["tokens", "Tokens"], ["seconds", "Time"]];
const SAY_EVERY_MS = 10_000;

export function Curve({ job }) {
  const lines = topic(`job:${job.id}`).value;
  const axis = query.value.get("x") ?? "step";
  const found = useMemo(() => columns(lines, axis), [lines, axis]);
  const shown = useMemo(() => linesOf(found), [found]);
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
    <${Chart} xs=${found.xs} xName=${axis} lines=${shown} marks=${marksOf(lines, found, axis)}
      summary=${summary(found)} format=${loss} />
    <${Verdict} job=${job} found=${found} />
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

function marksOf(lines, found, axis) {
  const at = (step) => found.xs[Math.max(0, found.steps.findIndex((each) => each >= step))];
  return lines.filter((line) => "stage_steps" in line && line.step > 0)
    .map((line) => ({ x: axis === "step" ? line.step : at(line.step), name: line.stage }));
}

function Verdict({ job, found }) {
  const { text, tone, best } = verdict(found);
  if (!text) return null;
  const isOver = tone === "warn" && job.status === "succeeded";
  return html`<p class="verdict ${tone}">${text}
    ${isOver && html` <a href=${href(`/new?from=${job.id}`)}>Run it again</a> for ${best} steps, or
      with early stopping.`}</p>`;
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
