// A chart of lines: uPlot's canvas for eyes, a sentence for ears, a table for both.

import { html, useEffect, useRef, useSignal } from "../html.js";
import { theme } from "../shell.js";
import { colourOf, keepCanvas } from "./picture.js";
import uplot from "../../vendor/uplot.js";

const HEIGHT = 300;
const MOST_ROWS = 60;
/** The library's class, which its source writes as a function. @type {any} */
const UPlot = uplot;
/** Distances between marks of an axis on which there are no halves. */
const WHOLE = Array.from({ length: 8 }, (_, power) => [1, 2, 5].map((each) => each * 10 ** power))
  .flat();
/** Safe for colour-blind eyes: the names of custom properties, and a dash for each. */
const STYLES = [
  ["--line-1", []], ["--line-2", [7, 4]], ["--line-3", [2, 3]], ["--line-4", [10, 3, 2, 3]],
  ["--line-5", [1, 2]], ["--line-6", [12, 4]], ["--line-7", [4, 2]], ["--line-8", [2, 6]],
];

export function styleOf(index) {
  return STYLES[index % STYLES.length];
}

/**
 * `lines`: [{name, style, values, points, faint, bold}] over `xs`, null where there is no value.
 * `marks`: [{x, name, kind}]: upright lines where a "stage" begins or a run has "resumed", small
 * triangles where it has "saved". `summary` is read out instead of the picture; `file` is the name
 * under which the picture can be kept.
 */
export function Chart({ xs, xName, lines, marks = [], summary, format, file = "curve.png" }) {
  const place = useRef(null);
  const plot = useRef(null);
  const shape = JSON.stringify([xName, lines.map(({ name }) => name), theme.value]);
  const latest = useRef(null);
  latest.current = { marks };

  useEffect(() => {
    const element = place.current;
    const options = optionsOf(element, xName, lines, latest, format);
    plot.current = new UPlot(options, dataOf(xs, lines), element);
    const resize = new ResizeObserver(() => {
      plot.current?.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    resize.observe(element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => plot.current?.redraw();
    dark.addEventListener("change", redraw);
    return () => {
      resize.disconnect();
      dark.removeEventListener("change", redraw);
      plot.current.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => {
    // A frame later: several news in one frame are drawn once.
    const frame = requestAnimationFrame(() => plot.current?.setData(dataOf(xs, lines)));
    return () => cancelAnimationFrame(frame);
  }, [xs, lines, JSON.stringify(marks)]);

  return html`<figure class="chart">
    <div class="canvas" ref=${place} role="img" aria-label=${summary}></div>
    <div class="row spread top"><${AsTable} xs=${xs} xName=${xName} lines=${lines}
      format=${format} />
      <button class="quiet small" onClick=${() => keepCanvas(plot.current, place.current, file)}>
        PNG</button></div>
  </figure>`;
}

function dataOf(xs, lines) {
  return [xs, ...lines.map(({ values }) => values)];
}

function optionsOf(element, xName, lines, latest, format) {
  const axis = {
    stroke: () => colourOf(element, "--soft"),
    grid: { stroke: () => colourOf(element, "--line"), width: 1 },
    ticks: { show: false }, font: "12px system-ui, sans-serif", gap: 6,
  };
  const whole = xName === "seconds" ? {} : { incrs: WHOLE };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    padding: [12, 12, 0, 0],
    scales: { x: { time: false } },
    legend: { live: true },
    cursor: { y: false, points: { size: 7 } },
    axes: [{ ...axis, size: 34, ...whole, values: (_, ticks) => ticks.map(short) },
      { ...axis, size: 48 }],
    series: [{ label: xName }, ...lines.map(({ name, style, faint, bold, points }) => ({
      label: name,
      stroke: () => colourOf(element, style[0]),
      alpha: faint ? 0.3 : 1,
      width: bold ? 2.2 : 1.3,
      dash: faint ? [] : style[1],
      spanGaps: true,
      points: { show: Boolean(points), size: 7, fill: () => colourOf(element, style[0]) },
      value: (_, value) => (value === null ? "–" : format(value)),
    }))],
    hooks: { draw: [(plot) => drawMarks(plot, latest.current.marks, element)] },
  };
}

function short(number) {
  if (number >= 1e6) return `${number / 1e6} M`;
  return number >= 10_000 ? `${number / 1000} k` : String(number);
}

function drawMarks(plot, marks, element) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = colourOf(element, "--edge");
  ctx.fillStyle = colourOf(element, "--soft");
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  const size = 5 * devicePixelRatio;
  const bottom = bbox.top + bbox.height;
  for (const { x, name, kind } of marks) {
    const at = plot.valToPos(x, "x", true);
    if (at < bbox.left || at > bbox.left + bbox.width) continue;
    ctx.setLineDash(kind === "resumed" ? [3 * devicePixelRatio, 4 * devicePixelRatio] : []);
    if (kind === "saved") {
      ctx.beginPath();
      ctx.moveTo(at, bottom - 1.6 * size);
      ctx.lineTo(at + size, bottom);
      ctx.lineTo(at - size, bottom);
      ctx.fill();
      continue;
    }
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bottom);
    ctx.stroke();
    ctx.fillText(name, at + 4 * devicePixelRatio, bbox.top + 11 * devicePixelRatio);
  }
  ctx.restore();
}

function AsTable({ xs, xName, lines, format }) {
  const isOpen = useSignal(false);
  const every = Math.max(1, Math.ceil(xs.length / MOST_ROWS));
  const isPoint = (index) => lines.some(({ points, values }) => points && values[index] !== null);
  const rows = [...xs.keys()].filter((index) => (
    index % every === 0 || index === xs.length - 1 || isPoint(index)));
  return html`<details onToggle=${(event) => { isOpen.value = event.target.open; }}>
    <summary>Show as table</summary>
    ${isOpen.value && html`<div class="scroll table-box" tabindex="0" role="region"
      aria-label="Values of the chart"><table>
      <thead><tr><th class="number">${xName}</th>
        ${lines.map(({ name }) => html`<th key=${name} class="number">${name}</th>`)}</tr></thead>
      <tbody>${rows.map((index) => html`<tr key=${index}><td class="number">${xs[index]}</td>
        ${lines.map(({ name, values }) => html`<td key=${name} class="number">
          ${values[index] === null ? "" : format(values[index])}</td>`)}</tr>`)}</tbody>
    </table></div>`}</details>`;
}
