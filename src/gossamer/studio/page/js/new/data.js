// Part 1 of a new adapter: which rows to learn from, what is wrong with them, what is held out.

import { get } from "../api.js";
import { ago, bytes } from "../format.js";
import { html, useEffect, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";
import { setQuery } from "../router.js";
import { draft } from "./draft.js";
import { leaveOut } from "./findings.js";
import { Report } from "./report.js";
import { Upload } from "./upload.js";

export function Data() {
  const files = useSignal(null);
  const problem = useSignal(null);
  const { file, held } = draft.value;

  async function load() {
    try {
      files.value = (await get("/v1/files?purpose=fine-tune")).data;
    } catch (error) {
      problem.value = error;
    }
  }
  useEffect(() => { load(); }, []);

  async function choose(made) {
    setQuery({ file: made.id, name: draft.value.name || nameFrom(made.filename) });
    await load();
  }

  const chosen = files.value?.find((each) => each.id === file);
  return html`<section class="part" aria-labelledby="part-data">
    <h2 id="part-data"><span class="step">1</span> Data</h2>
    <div class="stack">
      <${Problem} error=${problem.value} />
      ${!chosen && html`<${Upload} label="Choose a file" onDone=${choose}
        hint="or drop it here: .jsonl, .json or .csv. Nothing leaves this machine."
        example=${async () => (await import("./example.js")).exampleFile()} />`}
      ${!chosen && files.value?.length > 0 && html`<${Recent} files=${files.value} />`}
      ${chosen && html`<div class="row spread chosen">
        <span class="cut"><b>${chosen.filename}</b>
          <span class="soft"> ${bytes(chosen.bytes)}, ${ago(chosen.created_at)}</span></span>
        <button class="small" onClick=${() => setQuery({ file: "" })}>Another file</button>
      </div>
      <${Report} key=${file} file=${file} held=${held.startsWith("file-") ? held : null} />
      <${HeldOut} files=${files.value} held=${held} onFile=${async (made) => {
        setQuery({ held: made.id });
        await load();
      }} />`}
    </div>
  </section>`;
}

function nameFrom(filename) {
  return filename.replace(/\.\w+$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 64);
}

function Recent({ files }) {
  return html`<div class="stack tight"><h3>Or one that is here already</h3>
    <ul class="plain">${files.slice(0, 5).map((file) => html`<li key=${file.id}>
      <button class="quiet" onClick=${() => setQuery({ file: file.id,
        name: draft.value.name || nameFrom(file.filename) })}>${file.filename}</button>
      <span class="soft small-text">${bytes(file.bytes)}, ${ago(file.created_at)}</span></li>`)}
    </ul></div>`;
}

/** Rows that are never learnt from, by which a run is judged. */
function HeldOut({ files, held, onFile }) {
  const isFile = held === "file" || held.startsWith("file-");
  const others = files.filter((each) => each.id !== draft.value.file);
  const option = (value, isChecked, text) => html`<label class="row">
    <input type="radio" name="held" checked=${isChecked}
      onChange=${() => setQuery({ held: value, ...leaveOut("held-out", false) })} />${text}
      </label>`;
  return html`<fieldset class="stack tight"><legend><h3>Held out to judge by</h3></legend>
    <div class="row wide-gaps">
      ${option("0.1", held === "0.1", "10 % of these rows")}
      ${option("0", held === "0", "None")}
      ${option("file", isFile, "A file of its own")}
    </div>
    ${isFile && html`<div class="row">
      ${others.length > 0 && html`<label class="row">File <select value=${held}
        onChange=${(event) => setQuery({ held: event.target.value })}>
        <option value="file">choose…</option>
        ${others.map((each) => html`<option key=${each.id} value=${each.id}>${each.filename}
          </option>`)}</select></label>`}
      <${Upload} label="Upload" hint="" onDone=${onFile} /></div>`}
  </fieldset>`;
}
