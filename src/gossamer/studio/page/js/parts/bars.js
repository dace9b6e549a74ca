// Bars of counts, drawn as elements so that they can be read, printed and enlarged.

import { html } from "../html.js";

/** A histogram. `mark` is {at, label}: a bound on the same axis, drawn as a line. */
export function Histogram({ bins, counts, label, mark }) {
  const most = Math.max(1, ...counts);
  const width = 100 / counts.length;
  const place = mark ? placeOf(mark.at, bins) * 100 : 100;
  return html`<figure class="histogram" role="img" aria-label=${label}>
    <svg viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true">
      ${counts.map((count, index) => html`<rect key=${index} x=${index * width + width * 0.06}
        width=${width * 0.88} y=${32 - (30 * count) / most} height=${(30 * count) / most} />`)}
      ${place < 100 && html`<line x1=${place} x2=${place} y1="0" y2="32" />`}
    </svg>
    <div class="row spread small-text soft" aria-hidden="true"><span>${bins[0]}</span>
      <span>${place < 100 ? mark.label : ""}</span><span>${bins.at(-1)}</span></div>
  </figure>`;
}

/** Where a value lies between the bins, from 0 to 1. */
function placeOf(value, bins) {
  if (value >= bins.at(-1)) return 1;
  const index = Math.max(0, bins.findIndex((bin) => bin > value) - 1);
  const inside = (value - bins[index]) / (bins[index + 1] - bins[index]);
  return Math.max(0, (index + inside) / (bins.length - 1));
}
