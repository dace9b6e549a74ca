// What the check of a file found, in sentences, and the rows as the model sees them.

import { get } from "../api.js";
import { count, plural } from "../format.js";
import { html, useEffect, useSignal } from "../html.js";
import { Histogram } from "../parts/bars.js";
import { Problem } from "../parts/notes.js";
import { setQuery } from "../router.js";
import { draft } from "./draft.js";

const FORMATS = {
  messages: "conversations", "prompt-completion": "prompts and completions",
  instruction: "instructions", text: "plain text", preference: "preferences",
};

export function Report({ file }) {
  const report = useSignal(null);
  const problem = useSignal(null);
  useEffect(() => {
    const stop = new AbortController();
    get(`/v1/files/${file}/report`, { signal: stop.signal }).then((answer) => {
      report.value = answer;
    }, (error) => {
      if (!stop.signal.aborted) problem.value = error;
    });
    return () => stop.abort();
  }, [file]);

  const found = report.value;
  if (!found) {
    return problem.value ? html`<${Problem} error=${problem.value} />`
      : html`<p class="soft late">Checking the rows…</p>`;
  }
  return html`<div class="stack">
    <p><b>${plural(found.rows_used, "row")}</b> of ${FORMATS[found.format] ?? found.format}.
      ${" "}<${Tokens} report=${found} /></p>
    <div class="two"><${Lengths} report=${found} /><${Preview} rows=${found.preview} /></div>
    <${Findings} report=${found} />
  </div>`;
}

function Tokens({ report }) {
  if (report.tokens === undefined) return null;
  return html`${count(report.tokens)} tokens, of which ${count(report.learnt_tokens)} are learnt.`;
}

function Lengths({ report }) {
  const { bins, counts, p50, p90, max } = report.length ?? {};
  if (!counts) return null;
  const limit = Number(draft.value.training.max_length ?? report.max_length);
  return html`<div class="stack tight"><h3>Tokens per row</h3>
    <${Histogram} bins=${bins} counts=${counts} mark=${{ at: limit, label: `max_length ${limit}` }}
      label=${`Half of the rows have at most ${p50} tokens, 90 % at most ${p90}, all ${max}.`} />
    <p class="soft small-text">Half have at most ${count(p50)}, the longest has ${count(max)}.</p>
  </div>`;
}

function Findings({ report }) {
  const lines = [];
  if (report.cut_rows) {
    const wanted = report.suggested_max_length;
    lines.push(html`${plural(report.cut_rows, "row")} longer than ${report.max_length} tokens:
      ${" "}${plural(report.cut_tokens, "token")} are not seen.
      ${wanted && html` <button class="small" onClick=${() => setQuery({ "t.max_length": wanted })}>
        Raise max_length to ${wanted}</button>`}`);
  }
  if (report.duplicates) {
    lines.push(html`${plural(report.duplicates, "row")} repeat another one word for word.`);
  }
  if (report.overlap) {
    lines.push(html`${plural(report.overlap, "row")} are in the held-out file too: what they tell
      about the result is worthless.`);
  }
  if (report.ignored_columns?.length) {
    lines.push(html`Not read: ${report.ignored_columns.map((name, index) => html`${index > 0
      && ", "}<code key=${name}>${name}</code>`)}.`);
  }
  if (report.rows_bad) lines.push(html`<${BadRows} report=${report} />`);
  if (!lines.length) return html`<p class="good small-text">Nothing is wrong with these rows.</p>`;
  return html`<ul class="findings">
    ${lines.map((line, index) => html`<li key=${index}>${line}</li>`)}</ul>`;
}

function BadRows({ report }) {
  const leaves = draft.value.training.skip_bad_rows === "true";
  const toggle = () => setQuery({ "t.skip_bad_rows": leaves ? "" : "true" });
  return html`${plural(report.rows_bad, "row")} cannot be used.
    <label class="row inline"><input type="checkbox" checked=${leaves} onChange=${toggle} />
      Leave ${report.rows_bad === 1 ? "it" : "them"} out</label>
    <details><summary>Which and why</summary><ul class="plain small-text">
      ${report.problems.map(({ row, reason }) => html`<li key=${row}>
        ${report.unit} ${row}: ${reason}</li>`)}</ul></details>`;
}

/** Rows as the model sees them, what is learnt of them marked. */
function Preview({ rows }) {
  const number = useSignal(0);
  if (!rows?.length) return null;
  const row = rows[number.value];
  const move = (by) => { number.value = (number.value + by + rows.length) % rows.length; };
  return html`<div class="stack tight">
    <div class="row spread"><h3>As the model sees it</h3>
      <div class="row"><button class="small quiet" aria-label="Row before"
          onClick=${() => move(-1)}>‹</button>
        <span class="small-text soft" aria-live="polite">row ${row.row}</span>
        <button class="small quiet" aria-label="Next row"
          onClick=${() => move(1)}>›</button></div>
    </div>
    <p class="preview">${row.parts.map((part, index) => (part.learnt
      ? html`<mark key=${index}>${part.text}</mark>`
      : html`<span key=${index}>${part.text}</span>`))}</p>
    <p class="soft small-text">Marked is what is learnt.</p>
  </div>`;
}
