// What the check of a file found, in sentences, and the rows as the model sees them.

import { catalogue, loadCatalogue } from "../catalogue.js";
import { count, plural } from "../format.js";
import { html, useEffect, useMemo, useSignal } from "../html.js";
import { Histogram } from "../parts/bars.js";
import { Problem } from "../parts/notes.js";
import { useAnswer } from "./answers.js";
import { draft } from "./draft.js";
import { Findings } from "./findings.js";
import { histogram, quantile } from "./lengths.js";
import { Preview } from "./preview.js";

const FORMATS = {
  messages: "conversations", "prompt-completion": "prompts and completions",
  instruction: "instructions", text: "plain text", preference: "preferences",
};

/** `held` is the file that is held out, if one is, `training` the settings of the run; where one
 * `canChoose`, what is wrong can be left out of the draft. */
export function Report({ file, held = null, training = draft.value.training, canChoose = true }) {
  const against = held ? `?held_out=${held}` : "";
  const report = useAnswer(`/v1/files/${file}/report${against}`, (each) => each.complete !== false);
  const tokens = useAnswer(`/studio/api/files/${file}/tokens`, (each) => each.is_all);
  const at = useSignal(1);
  useEffect(() => { loadCatalogue().catch(() => {}); }, []); // For the usual longest length.
  const found = report.value?.answer;
  if (!report.value) return html`<p class="soft late">Checking the rows…</p>`;
  if (report.value.problem) return html`<${Problem} error=${report.value.problem} />`;
  if (found.error) return html`<p class="note bad" role="alert">${found.error}</p>`;
  if (!found.rows.read) return html`<p class="soft late">Reading the first rows…</p>`;
  const counted = tokens.value?.answer;
  const limit = limitOf(training);
  return html`<div class="stack">
    <p>${!found.complete && html`<span class="soft">From the first ${count(found.rows.read)} rows
      up to now: </span>`}<b>${plural(found.rows.used, "row")}</b> of
      ${" "}${FORMATS[found.format] ?? found.format}. <${Tokens} tokens=${tokens.value} />
      ${" "}<${Voices} report=${found} /></p>
    <div class="two">${counted?.lengths.length > 0 && html`<${Lengths} tokens=${counted}
      limit=${limit} />`}
      <${Preview} file=${file} at=${at} total=${found.rows.read} unit=${found.unit}
        learns=${training.train_on ?? "completion"} /></div>
    <${Findings} report=${found} tokens=${counted} canChoose=${canChoose} limit=${limit}
      onShow=${(row) => { at.value = row; }} />
  </div>`;
}

function Tokens({ tokens }) {
  if (!tokens) return html`<span class="soft">Counting tokens…</span>`;
  if (tokens.problem) return html`<span class="soft">${tokens.problem.message}</span>`;
  const { is_all: isAll, rows, tokens: all, learnt } = tokens.answer;
  const share = all ? Math.round((100 * learnt) / all) : 0;
  return html`${isAll ? "" : `The first ${count(rows)} have `}${count(all)} tokens, of which
    ${" "}${count(learnt)} (${share} %) are learnt.`;
}

/** Who speaks in conversations, where it is more than one question and its answer. */
function Voices({ report }) {
  const { user, assistant } = report.roles ?? {};
  const parts = [];
  if (assistant > report.rows.used) {
    const turns = ((user ?? 0) + assistant) / report.rows.used;
    parts.push(`${turns.toFixed(1)} turns a row`);
  }
  if (report.system_prompts) parts.push(plural(report.system_prompts, "system prompt"));
  return parts.length ? html`<span class="soft">${parts.join(", ")}.</span>` : null;
}

/** The longest length of a run, or the default. */
function limitOf(training) {
  const usual = catalogue.value?.training.find(({ name }) => name === "max_length")?.default;
  return Number(training.max_length ?? usual ?? Infinity);
}

function Lengths({ tokens, limit }) {
  const { lengths } = tokens;
  const shape = useMemo(() => histogram(lengths), [lengths]);
  const [half, most, nearly] = [0.5, 0.9, 0.99].map((share) => count(quantile(lengths, share)));
  const text = `Half of the rows have at most ${half} tokens, 90 % at most ${most}, 99 % at most
    ${nearly}; the longest has ${count(lengths.at(-1)[0])}.`.replace(/\s+/g, " ");
  return html`<div class="stack tight"><h3>Tokens per row</h3>
    <${Histogram} ...${shape} mark=${{ at: limit, label: `max_length ${limit}` }} label=${text} />
    <p class="soft small-text">${text}</p>
  </div>`;
}
