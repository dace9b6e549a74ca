// What the check of a file found, in sentences, and the rows as the model sees them.

import { get } from "../api.js";
import { catalogue } from "../catalogue.js";
import { count, plural } from "../format.js";
import { html, useEffect, useMemo, useSignal } from "../html.js";
import { Histogram } from "../parts/bars.js";
import { Problem } from "../parts/notes.js";
import { setQuery } from "../router.js";
import { draft } from "./draft.js";
import { cutBy, histogram, quantile } from "./lengths.js";

const FORMATS = {
  messages: "conversations", "prompt-completion": "prompts and completions",
  instruction: "instructions", text: "plain text", preference: "preferences",
};

export function Report({ file }) {
  const report = useAnswer(`/v1/files/${file}/report`);
  const tokens = useAnswer(`/studio/api/files/${file}/tokens`);
  const found = report.value?.answer;
  if (!report.value) return html`<p class="soft late">Checking the rows…</p>`;
  if (!found) return html`<${Problem} error=${report.value.problem} />`;
  return html`<div class="stack">
    <p><b>${plural(found.rows.used, "row")}</b> of ${FORMATS[found.format] ?? found.format}.
      ${" "}<${Tokens} tokens=${tokens.value} /></p>
    ${tokens.value?.answer && html`<div class="two"><${Lengths} tokens=${tokens.value.answer} />
      <${Preview} rows=${tokens.value.answer.preview} /></div>`}
    <${Findings} report=${found} tokens=${tokens.value?.answer} />
  </div>`;
}

/** What a path answers: {answer} or {problem}; null until it has. */
function useAnswer(path) {
  const found = useSignal(null);
  useEffect(() => {
    const stop = new AbortController();
    found.value = null;
    const told = (answer) => { found.value = { answer }; };
    get(path, { signal: stop.signal }).then(told, (problem) => {
      if (!stop.signal.aborted) found.value = { problem };
    });
    return () => stop.abort();
  }, [path]);
  return found;
}

function Tokens({ tokens }) {
  if (!tokens) return html`<span class="soft">Counting tokens…</span>`;
  if (tokens.problem) return html`<span class="soft">${tokens.problem.message}</span>`;
  const { lengths, learnt, is_all: isAll } = tokens.answer;
  const sum = (values) => count(values.reduce((all, value) => all + value, 0));
  return html`${isAll ? "" : `Its first ${count(lengths.length)} have `}${sum(lengths)} tokens, of
    ${" "}which ${sum(learnt)} are learnt.`;
}

/** The longest length of the draft, or the default. */
function limitOf() {
  const usual = catalogue.value?.training.find(({ name }) => name === "max_length")?.default;
  return Number(draft.value.training.max_length ?? usual);
}

function Lengths({ tokens }) {
  const { lengths } = tokens;
  const shape = useMemo(() => histogram(lengths), [lengths]);
  const limit = limitOf();
  const half = count(quantile(lengths, 0.5));
  const longest = count(Math.max(...lengths));
  return html`<div class="stack tight"><h3>Tokens per row</h3>
    <${Histogram} ...${shape} mark=${{ at: limit, label: `max_length ${limit}` }}
      label=${`Half of the rows have at most ${half} tokens, the longest has ${longest}.`} />
    <p class="soft small-text">Half have at most ${half}, the longest has ${longest}.</p>
  </div>`;
}

function Findings({ report, tokens }) {
  const lines = [];
  const cut = tokens && cutBy(tokens.lengths, limitOf());
  if (cut?.rows) {
    const raise = () => setQuery({ "t.max_length": cut.wanted });
    lines.push(html`${plural(cut.rows, "row")} longer than ${limitOf()} tokens:
      ${" "}${plural(cut.tokens, "token")} are not seen.
      ${cut.wanted > limitOf() && html` <button class="small" onClick=${raise}>
        Raise max_length to ${cut.wanted}</button>`}`);
  }
  if (report.duplicates) {
    const verb = report.duplicates === 1 ? "repeats" : "repeat";
    lines.push(html`${plural(report.duplicates, "row")} ${verb} another one word for word.`);
  }
  if (report.ignored_columns?.length) {
    lines.push(html`Not read: ${report.ignored_columns.map((name, index) => html`${index > 0
      && ", "}<code key=${name}>${name}</code>`)}.`);
  }
  if (report.rows.bad) lines.push(html`<${BadRows} report=${report} />`);
  if (!lines.length) return html`<p class="good small-text">Nothing is wrong with these rows.</p>`;
  return html`<ul class="findings">
    ${lines.map((line, index) => html`<li key=${index}>${line}</li>`)}</ul>`;
}

function BadRows({ report }) {
  const leaves = draft.value.training.skip_bad_rows === "true";
  const toggle = () => setQuery({ "t.skip_bad_rows": leaves ? "" : "true" });
  return html`${plural(report.rows.bad, "row")} cannot be used.
    <label class="row inline"><input type="checkbox" checked=${leaves} onChange=${toggle} />
      Leave ${report.rows.bad === 1 ? "it" : "them"} out</label>
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
