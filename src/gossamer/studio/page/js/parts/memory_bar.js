// Who has which part of a memory, as one bar and a list.

import { bytes } from "../format.js";
import { html } from "../html.js";

/** `parts`: [{name, size, tone}] that add up to the whole. */
export function MemoryBar({ parts, label }) {
  const total = parts.reduce((sum, { size }) => sum + size, 0) || 1;
  let at = 0;
  const drawn = parts.map((part) => {
    const start = at;
    at += (100 * part.size) / total;
    return { ...part, start, width: (100 * part.size) / total };
  });
  return html`<figure class="memory">
    <svg viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=${label}>
      ${drawn.map(({ name, start, width, tone }) => html`<rect key=${name} class=${tone} x=${start}
        width=${Math.max(0, width - 0.15)} y="0" height="6" />`)}</svg>
    <ul class="plain key">${drawn.map(({ name, size, tone }) => html`<li key=${name}>
      <span class="dot ${tone}" aria-hidden="true"></span>${name}
      <span class="soft"> ${bytes(size)}</span></li>`)}</ul>
  </figure>`;
}
