// Rows one by one as the model sees them, what is learnt of them marked.

import { get } from "../api.js";
import { html, useEffect, useRef, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";

const TOGETHER = 20;

/** `at` is a signal: the place of the row that is shown, from 1 to `total`; `learns` says of which
 * parts. */
export function Preview({ file, at, total, unit, learns }) {
  const known = useRef(new Map());
  const row = useSignal(null);
  const problem = useSignal(null);
  const place = at.value;

  useEffect(() => {
    const stop = new AbortController();
    const key = (number) => `${learns}:${number}`;
    async function load() {
      // Those around it come with it: the next ones are looked at next.
      const from = Math.max(1, place - 1);
      const path = `/v1/files/${file}/rows?from=${from}&count=${TOGETHER}&train_on=${learns}`;
      try {
        const { data } = await get(path, { signal: stop.signal });
        for (const each of data) known.current.set(key(each.at), each);
        row.value = known.current.get(key(place)) ?? null;
        problem.value = null;
      } catch (error) {
        if (!stop.signal.aborted) problem.value = error;
      }
    }
    const found = known.current.get(key(place));
    if (found) row.value = found;
    else load();
    return () => stop.abort();
  }, [file, place, learns]);

  if (problem.value) return html`<${Problem} error=${problem.value} />`;
  if (!row.value) return html`<p class="soft late">Loading the rows…</p>`;
  const move = (by) => { at.value = ((place - 1 + by + total) % total) + 1; };
  const name = row.value.row === row.value.at ? "" : ` (${unit} ${row.value.row})`;
  return html`<div class="stack tight">
    <div class="row spread"><h3>What the model sees</h3>
      <div class="row"><button class="small quiet" aria-label="Row before"
          onClick=${() => move(-1)}>‹</button>
        <label class="row small-text soft">row <input class="place" type="number" min="1"
          max=${total} value=${row.value.at} aria-label="Number of the row"
          onChange=${(event) => {
            at.value = Math.min(total, Math.max(1, Math.round(Number(event.target.value)) || 1));
          }} /> of ${total}${name}</label>
        <button class="small quiet" aria-label="Next row" onClick=${() => move(1)}>›</button></div>
    </div>
    ${row.value.problem && html`<p class="bad small-text">${row.value.problem}</p>`}
    <${Parts} parts=${row.value.parts} />
    ${row.value.rejected && html`<p class="soft small-text">The answer that is not preferred:</p>
      <${Parts} parts=${row.value.rejected} />`}
    <p class="soft small-text" aria-live="polite">${row.value.tokens === null
      ? `Row ${row.value.at} cannot be used.`
      : `${row.value.tokens} tokens; marked is what is learnt.`}</p>
  </div>`;
}

function Parts({ parts }) {
  if (!parts.length) return null;
  return html`<p class="preview" tabindex="0">${parts.map((part, index) => (part.learnt
    ? html`<mark key=${index}>${part.text}</mark>`
    : html`<span key=${index}>${part.text}</span>`))}</p>`;
}
