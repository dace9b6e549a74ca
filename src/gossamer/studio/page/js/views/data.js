// The files of rows that have been uploaded.

import { del, get } from "../api.js";
import { bytes, when } from "../format.js";
import { html, useEffect, useSignal } from "../html.js";
import { Report } from "../new/report.js";
import { Upload } from "../new/upload.js";
import { Confirmed, Problem } from "../parts/notes.js";
import { go, href, query, setQuery } from "../router.js";

export const title = "Data";

const PURPOSES = {
  "fine-tune": "rows", "fine-tune-results": "metrics of a run", evals: "evaluation",
};

export function View() {
  const files = useSignal(null);
  const problem = useSignal(null);

  async function load() {
    try {
      files.value = (await get("/v1/files?limit=500")).data;
    } catch (error) {
      problem.value = error;
    }
  }
  useEffect(() => { load(); }, []);

  const shown = files.value?.find(({ id }) => id === query.value.get("file"));
  return html`<div class="view">
    <header class="head"><h1 tabindex="-1">Data</h1></header>
    <${Upload} label="Choose a file" onDone=${(file) => go(`/new?file=${file.id}`)}
      hint="or drop it here. A file of questions and answers: .jsonl, .json or .csv." />
    <${Problem} error=${problem.value} />
    ${files.value?.length === 0 && html`<p class="soft">No data yet. Drop a file of questions and
      answers; nothing leaves this machine.</p>`}
    ${files.value?.length > 0 && html`<div class="scroll" tabindex="0" role="region"
      aria-label="Table of files"><table class="stacked">
      <thead><tr><th>File</th><th>What</th><th class="number">Size</th><th>Since</th><th>State</th>
        <th><span class="hidden-text">Actions</span></th></tr></thead>
      <tbody>${files.value.map((file) => html`<tr key=${file.id}
        class=${file.id === shown?.id ? "chosen" : ""}>
        <td><b>${file.filename}</b></td>
        <td data-label="What">${PURPOSES[file.purpose] ?? file.purpose}</td>
        <td class="number" data-label="Size">${bytes(file.bytes)}</td>
        <td data-label="Since">${when(file.created_at)}</td>
        <td class=${file.status === "error" ? "bad" : ""}>${words(file)}</td>
        <td><${Actions} file=${file} onGone=${load} /></td></tr>`)}</tbody></table></div>`}
    ${shown && html`<section class="stack" aria-labelledby="looked-at">
      <div class="row spread"><h2 id="looked-at">${shown.filename}</h2>
        <button class="small" onClick=${() => setQuery({ file: "" })}>Close</button></div>
      <${Report} key=${shown.id} file=${shown.id} training=${{}} canChoose=${false} /></section>`}
  </div>`;
}

function words(file) {
  if (file.status === "error") return file.status_details ?? "cannot be used";
  return file.status === "uploaded" ? "being checked" : "ready";
}

function Actions({ file, onGone }) {
  const problem = useSignal(null);

  async function remove() {
    try {
      await del(`/v1/files/${file.id}`);
      await onGone();
    } catch (error) {
      problem.value = error;
    }
  }

  return html`<div class="row actions">
    ${file.purpose === "fine-tune" && html`<button class="small"
      aria-label=${`Look at ${file.filename}`}
      onClick=${() => setQuery({ file: file.id })}>Look</button>`}
    ${file.purpose === "fine-tune" && file.status === "processed" && html`<a class="button small"
      href=${href(`/new?file=${file.id}`)} aria-label=${`Tune on ${file.filename}`}>Tune</a>`}
    <a class="button small" download href=${`/v1/files/${file.id}/content`}
      aria-label=${`Download ${file.filename}`}>Download</a>
    <${Confirmed} verb="Delete" name=${file.filename} onYes=${remove}>The rows are gone then.
      Adapters that learnt from them stay.<//>
    <${Problem} error=${problem.value} />
  </div>`;
}
