// Held-out loss against a cost: which runs no other beats in both.

import { bytes, count, loss, seconds } from "../format.js";
import { html, useRef, useSignal } from "../html.js";
import { keepSvg } from "../parts/picture.js";

/** Name, label, and how a number of it is written.
 * @type {[string, string, (number: number) => string][]} */
const COSTS = [["weights", "Trained weights", count], ["memory", "Estimated memory", bytes],
  ["seconds", "Time", seconds]];
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [640, 260, 56, 34, 16, 90];

/** `groups`: one point each, of several seeds with a bar from the best of them to the worst. */
export function Scatter({ groups }) {
  const wanted = useSignal(null);
  const drawing = useRef(null);
  const offered = COSTS.filter(([name]) => (
    groups.filter(({ figures }) => figures[name] > 0).length > 1));
  if (!offered.length) return null;
  const [chosen, label, format] = offered.find(([name]) => name === wanted.value) ?? offered[0];
  const known = groups.filter(({ figures }) => (
    Number.isFinite(figures.held) && figures[chosen] > 0));
  if (known.length < 2) return null;
  const points = place(known.map(({ id, name, figures, low, high, runs }) => (
    { id, name, x: figures[chosen], y: figures.held, low, high, isMany: runs.length > 1 })));
  const front = paretoFront(points);
  return html`<section class="stack tight" aria-labelledby="scatter">
    <div class="row spread"><h2 id="scatter">Held-out loss against cost</h2>
      <div class="row" role="group" aria-label="Cost">${offered.map(([name, text]) => html`
        <button key=${name} class="quiet small" aria-pressed=${chosen === name}
          onClick=${() => { wanted.value = name; }}>${text}</button>`)}
        <button class="quiet small"
          onClick=${() => keepSvg(drawing.current, "compare-costs.png")}>PNG</button></div></div>
    <div class="scroll" tabindex="0" role="region"
      aria-label="Points of the runs"><svg class="scatter" ref=${drawing}
        viewBox="0 0 ${WIDTH} ${HEIGHT}"
        role="img"
      aria-label=${points.map(
      ({ name, x, y, isMany, low, high }) => `${name}: loss ${loss(y)}${isMany
        ? ` (${loss(low)} to ${loss(high)})` : ""} at ${format(x)}`).join("; ")}>
      <path class="axis" d="M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}" />
      <polyline class="front" points=${front.map(({ left, top }) => `${left},${top}`).join(" ")} />
      ${points.map(({ id, name, x, y, left, top, isMany, low, high, ends }) => html`<g key=${id}>
        ${isMany && html`<path class="bar" d="M${left - 4} ${ends[0]}h8M${left - 4} ${ends[1]}h8
          M${left} ${ends[0]}V${ends[1]}" />`}
        <circle class=${front.some((each) => each.id === id) ? "best" : ""} cx=${left}
          cy=${top} r="5" />
        <text x=${left + 9} y=${top + 4}>${name}</text>
        <title>${name}: ${loss(y)}${isMany ? ` (${loss(low)} to ${loss(high)})` : ""},
          ${format(x)}</title></g>`)}
      <text class="soft" x=${LEFT} y=${HEIGHT - 10}>
        ${format(Math.min(...points.map(({ x }) => x)))}</text>
      <text class="soft end" x=${WIDTH - RIGHT} y=${HEIGHT - 10}>
        ${format(Math.max(...points.map(({ x }) => x)))} ${label.toLowerCase()} (log)</text>
      <text class="soft end" x=${LEFT - 8} y=${TOP + 10}>
        ${loss(Math.max(...points.map(({ high }) => high)))}</text>
      <text class="soft end" x=${LEFT - 8} y=${HEIGHT - BOTTOM - 2}>
        ${loss(Math.min(...points.map(({ low }) => low)))}</text>
    </svg></div>
    <p class="soft small-text">The line joins the runs that no other beats in both.
      ${points.some(({ isMany }) => isMany) && html` Points of several seeds are their mean; bars
        reach from the best of them to the worst.`}</p></section>`;
}

function place(points) {
  const [least, most] = ends(points.map(({ x }) => Math.log(x)));
  const [best, worst] = ends(points.flatMap(({ low, high }) => [low, high]));
  const height = HEIGHT - TOP - BOTTOM - 28;
  const topOf = (y) => TOP + 12 + ((worst - y) / (worst - best || 1)) * height;
  return points.map((point) => ({
    ...point,
    left: LEFT + 14 + ((Math.log(point.x) - least) / (most - least || 1))
      * (WIDTH - LEFT - RIGHT - 28),
    top: topOf(point.y),
    ends: [topOf(point.high), topOf(point.low)],
  }));
}

const ends = (values) => [Math.min(...values), Math.max(...values)];

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
