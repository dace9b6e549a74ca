// Takes a file by drop or by choice, sends it, and waits until the server has looked at it.

import { get, sendForm } from "../api.js";
import { bytes } from "../format.js";
import { html, useRef, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";

const KINDS = ".jsonl,.json,.csv,.parquet";
const LOOK_EVERY_MS = 400;

/** A field for one file. `onDone` gets the file object once it is usable; `example` makes a file
 * for those who have none at hand. */
export function Upload({ label, hint, onDone, example = null }) {
  const progress = useSignal(null);
  const problem = useSignal(null);
  const isOver = useSignal(false);
  const stop = useRef(null);

  async function take(file) {
    problem.value = null;
    stop.current = new AbortController();
    progress.value = { name: file.name, size: file.size, share: 0 };
    try {
      const options = { stop: stop.current.signal, onProgress: (share) => {
        progress.value = { ...progress.value, share };
      } };
      const sent = await sendForm("/v1/files", { purpose: "fine-tune" }, file, options);
      onDone(await checked(sent, stop.current.signal));
    } catch (error) {
      if (error.name !== "AbortError") problem.value = error;
    }
    progress.value = null;
  }

  function drop(event) {
    event.preventDefault();
    isOver.value = false;
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  }

  return html`<div class="stack tight">
    <div class="drop ${isOver.value ? "over" : ""}" onDrop=${drop}
      onDragOver=${(event) => { event.preventDefault(); isOver.value = true; }}
      onDragLeave=${() => { isOver.value = false; }}>
      ${progress.value
        ? html`<${Sending} ...${progress.value} onStop=${() => stop.current.abort()} />`
        : html`<label class="choose"><span class="button">${label}</span>
            <input type="file" class="hidden-text" accept=${KINDS}
              onChange=${(event) => event.target.files[0] && take(event.target.files[0])} />
          </label><span class="soft small-text">${hint}</span>
          ${example && html`<button class="small quiet"
            onClick=${async () => take(await example())}>
            Try with example rows</button>`}`}
    </div>
    <${Problem} error=${problem.value} />
  </div>`;
}

function Sending({ name, size, share, onStop }) {
  return html`<div class="stack tight sending">
    <span>${share < 1 ? "Sending" : "Checking"} ${name} <span class="soft">${bytes(size)}</span>
      </span>
    <progress max="1" value=${share < 1 ? share : undefined} aria-label=${`Sending ${name}`} />
    <div><button class="small" onClick=${onStop}>Stop</button></div>
  </div>`;
}

/** Waits until the server has checked a file, or has told of its first rows: the others come while
 * they are read about. Throws its words if the file cannot be used. */
async function checked(file, stop) {
  let now = file;
  while (now.status === "uploaded") {
    await new Promise((resolve) => { setTimeout(resolve, LOOK_EVERY_MS); });
    now = await get(`/v1/files/${file.id}`, { signal: stop });
    if (now.status !== "uploaded") break;
    const { rows } = await get(`/v1/files/${file.id}/report`, { signal: stop });
    if (rows?.read) return now;
  }
  if (now.status === "error") {
    throw new Error(now.status_details ?? "The server cannot use this file.");
  }
  return now;
}
