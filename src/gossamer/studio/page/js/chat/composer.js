// Where the question is typed, and how it is to be answered.

import { html, useEffect, useRef, useSignal } from "../html.js";
import { setQuery } from "../router.js";
import { ask, isAnswering, sampling, stopAnswering, system } from "./thread.js";

/** Name, label and bounds. @type {[string, string, Record<string, number>][]} */
const FIELDS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }],
  ["max_tokens", "Most tokens", { min: 1, step: 1 }],
  ["seed", "Seed", { min: 0, step: 1 }],
];

export function Composer() {
  const text = useSignal("");
  const field = useRef(null);
  const canAsk = text.value.trim() && !isAnswering.value;
  useEffect(() => {
    const onKey = (event) => { if (event.key === "Escape") stopAnswering(); };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);

  function send(event) {
    event?.preventDefault();
    if (!canAsk) return;
    ask(text.value.trim());
    text.value = "";
    field.current.focus();
  }

  function onKeyDown(event) {
    const isSending = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (isSending) send(event);
  }

  return html`<form class="composer" onSubmit=${send}>
    <textarea ref=${field} rows="2" aria-label="Message" placeholder="Ask them all something"
      value=${text.value} onKeyDown=${onKeyDown}
      onInput=${(event) => { text.value = event.target.value; }}></textarea>
    <div class="row spread">
      <details class="sampling"><summary>Temperature ${sampling.value.temperature}, at most
        ${" "}${sampling.value.max_tokens} tokens${system.value ? ", system prompt" : ""}</summary>
        <div class="row wide-gaps">${FIELDS.map(([name, label, bounds]) => html`<label key=${name}
          class="stack tight">${label}<input class="short" type="number" ...${bounds}
            value=${sampling.value[name]}
            onChange=${(event) => setQuery({ [name]: event.target.value })} /></label>`)}</div>
        <label class="stack tight">System prompt
          <textarea rows="2" value=${system.value}
            onChange=${(event) => setQuery({ system: event.target.value })}></textarea></label>
      </details>
      ${isAnswering.value
        ? html`<button type="button" onClick=${stopAnswering}>Stop <kbd>Esc</kbd></button>`
        : html`<button class="primary" disabled=${!canAsk}>Ask</button>`}
    </div>
  </form>`;
}
