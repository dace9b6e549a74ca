// Held-out loss against a cost: which runs no other beats in both.

import { bytes, count, loss, seconds } from "../format.js";
import { html, useSignal } from "../html.js";
import { nameOf } from "../parts/job_words.js";

const COSTS = [["weights", "Trained weights", count], ["memory", "Estimated memory", bytes],
  ["seconds", "Time", seconds]];
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [640, 260, 56, 34, 16, 90];

export function Scatter({ runs }) {
  const wanted = useSignal(null);
  const offered = COSTS.filter(([name]) => (
    runs.filter(({ figures }) => figures[name] > 0).length > 1));
  if (!offered.length) return null;
  const [chosen, label, format] = offered.find(([name]) => name === wanted.value) ?? offered[0];
  const known = runs.filter(({ figures }) => (
    Number.isFinite(figures.held) && figures[chosen] > 0));
  if (known.length < 2) return null;
  const points = place(known.map(({ job, figures }) => (
    { name: nameOf(job), x: figures[chosen], y: figures.held })));
  const front = paretoFront(points);
  return html`<section class="stack tight" aria-labelledby="scatter">
    <div class="row spread"><h2 id="scatter">Held-out loss against cost</h2>
      <div class="row" role="group" aria-label="Cost">${offered.map(([name, text]) => html`
        <button key=${name} class="quiet small" aria-pressed=${chosen === name}
          onClick=${() => { wanted.value = name; }}>${text}</button>`)}</div></div>
    <div class="scroll" tabindex="0" role="region"
      aria-label="Points of the runs"><svg class="scatter" viewBox="0 0 ${WIDTH} ${HEIGHT}"
        role="img"
      aria-label=${points.map(
      ({ name, x, y }) => `${name}: loss ${loss(y)} at ${format(x)}`).join("; ")}>
      <path class="axis" d="M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}" />
      <polyline class="front" points=${front.map(({ left, top }) => `${left},${top}`).join(" ")} />
      ${points.map(({ name, x, y, left, top }) => html`<g key=${name}>
        <circle class=${front.some((each) => each.name === name) ? "best" : ""} cx=${left}
          cy=${top} r="5" />
        <text x=${left + 9} y=${top + 4}>${name}</text>
        <title>${name}: ${loss(y)}, ${format(x)}</title></g>`)}
      <text class="soft" x=${LEFT} y=${HEIGHT - 10}>
        ${format(Math.min(...points.map(({ x }) => x)))}</text>
      <text class="soft end" x=${WIDTH - RIGHT} y=${HEIGHT - 10}>
        ${format(Math.max(...points.map(({ x }) => x)))} ${label.toLowerCase()} (log)</text>
      <text class="soft end" x=${LEFT - 8} y=${TOP + 10}>
        ${loss(Math.max(...points.map(({ y }) => y)))}</text>
      <text class="soft end" x=${LEFT - 8} y=${HEIGHT - BOTTOM - 2}>
        ${loss(Math.min(...points.map(({ y }) => y)))}</text>
    </svg></div>
    <p class="soft small-text">The line joins the runs that no other beats in both.</p></section>`;
}

function place(points) {
  const ends = (values) => [Math.min(...values), Math.max(...values)];
  const [low, high] = ends(points.map(({ x }) => Math.log(x)));
  const [best, worst] = ends(points.map(({ y }) => y));
  return points.map((point) => ({
    ...point,
    left: LEFT + 14 + ((Math.log(point.x) - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT - 28),
    top: TOP + 12 + ((worst - point.y) / (worst - best || 1)) * (HEIGHT - TOP - BOTTOM - 28),
  }));
}

/** Points that no other beats in both, from the cheapest on. */
function paretoFront(points) {
  const sorted = [...points].sort((one, other) => one.x - other.x || one.y - other.y);
  let lowest = Infinity;
  return sorted.filter(({ y }) => {
    const isBetter = y < lowest;
    lowest = Math.min(lowest, y);
    return isBetter;
  });
}
