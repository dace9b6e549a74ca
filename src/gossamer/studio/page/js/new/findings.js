// What is odd about the rows of a file: said in a sentence, shown, and left out by one tick.

import { plural } from "../format.js";
import { html } from "../html.js";
import { setQuery } from "../router.js";
import { draft } from "./draft.js";
import { cutBy } from "./lengths.js";

export function Findings({ report, tokens, limit, canChoose, onShow }) {
  const shown = { report, canChoose, onShow };
  const overlap = report.overlap ?? { prompts: 0 };
  const lines = [
    tokens && cutBy(tokens.lengths, limit).rows > 0 && html`<${Cut} lengths=${tokens.lengths}
      limit=${limit} canChoose=${canChoose} />`,
    report.rows.bad > 0 && html`${plural(report.rows.bad, "row")} cannot be used.
      ${canChoose && html`<${Switch} name="skip_bad_rows" number=${report.rows.bad} />`}
      <${Which} ...${shown} rows=${report.problems} number=${report.rows.bad} />`,
    report.duplicates > 0 && html`${repeats(report.duplicates)} another one word for word.
      <${LeaveOut} ...${shown} kind="duplicates" number=${report.duplicates} />
      <${Which} ...${shown} rows=${report.duplicate_rows} number=${report.duplicates} />`,
    report.near_duplicates > 0 && html`${repeats(report.near_duplicates)} another one but for case,
      space and punctuation.
      <${LeaveOut} ...${shown} kind="near-duplicates" number=${report.near_duplicates} />
      <${Which} ...${shown} rows=${report.near_duplicate_rows} number=${report.near_duplicates} />`,
    overlap.prompts > 0 && html`<${Leak} overlap=${overlap} ...${shown} />`,
    ...(report.repeated_answers ?? []).map(({ text, rows }) => html`${plural(rows, "row")} of
      ${" "}${report.rows.used} have the same answer: “${text}”`),
    tokens?.short_answers > 0 && html`${plural(tokens.short_answers, "answer")}
      ${tokens.short_answers === 1 ? " is" : " are"} empty or one token long.`,
    report.ignored_columns?.length > 0 && html`Not read: ${report.ignored_columns.map(
      (name, index) => html`${index > 0 && ", "}<code key=${name}>${name}</code>`)}.`,
  ].filter(Boolean);
  if (!lines.length) return html`<p class="good small-text">Nothing is wrong with these rows.</p>`;
  return html`<ul class="findings">
    ${lines.map((line, index) => html`<li key=${index}>${line}</li>`)}</ul>`;
}

const repeats = (number) => `${plural(number, "row")} ${number === 1 ? "repeats" : "repeat"}`;

function Cut({ lengths, limit, canChoose }) {
  const cut = cutBy(lengths, limit);
  const raise = () => setQuery({ "t.max_length": cut.wanted });
  return html`${plural(cut.rows, "row")} longer than ${limit} tokens:
    ${" "}${plural(cut.tokens, "token")} are not seen.
    ${canChoose && cut.wanted > limit && html` <button class="small" onClick=${raise}>
      Raise max_length to ${cut.wanted}</button>`}`;
}

function Leak({ overlap, ...shown }) {
  const same = overlap.rows ? ` (${overlap.rows} word for word)` : "";
  return html`${plural(overlap.prompts, "row")} ${overlap.prompts === 1 ? "asks" : "ask"} what a
    held-out row asks${same}: the held-out loss would look better than it is.
    <${LeaveOut} ...${shown} kind="held-out" number=${overlap.prompts} />
    <${Which} ...${shown} rows=${overlap.listed} number=${overlap.prompts} />`;
}

/** The ticked kinds of rows to leave out; typed as a list, or with commas between. */
function leftOut() {
  const text = draft.value.training.leave_out ?? "";
  return text.replace(/[[\]"\s]/g, "").split(",").filter(Boolean);
}

/** Puts a kind of rows into the draft's `leave_out`, or takes it out. */
export function leaveOut(kind, isWanted) {
  const others = leftOut().filter((each) => each !== kind);
  return { "t.leave_out": (isWanted ? [...others, kind] : others).join(",") };
}

function LeaveOut({ kind, number, canChoose }) {
  if (!canChoose) return null;
  const isOut = leftOut().includes(kind);
  return html`<label class="row inline"><input type="checkbox" checked=${isOut}
    onChange=${() => setQuery(leaveOut(kind, !isOut))} />
    Leave ${number === 1 ? "it" : "them"} out<span class="hidden-text"> (${kind})</span></label>`;
}

function Switch({ name, number }) {
  const isOn = draft.value.training[name] === "true";
  return html`<label class="row inline"><input type="checkbox" checked=${isOn}
    onChange=${() => setQuery({ [`t.${name}`]: isOn ? "" : "true" })} />
    Leave ${number === 1 ? "it" : "them"} out</label>`;
}

/** The first rows of a kind, each a button that shows it. */
function Which({ report, rows, number, onShow }) {
  if (!rows?.length) return null;
  return html`<details><summary>Show ${number === 1 ? "it" : "them"}</summary>
    <ul class="plain small-text">${rows.map(({ row, at, reason, of }) => html`<li key=${row}>
      <button class="quiet small" onClick=${() => onShow(at)}>${report.unit} ${row}</button>
      ${reason ? `: ${reason}` : of ? ` repeats ${report.unit} ${of}` : ""}</li>`)}
      ${number > rows.length && html`<li class="soft">and ${number - rows.length} more</li>`}
    </ul></details>`;
}
