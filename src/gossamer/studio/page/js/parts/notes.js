// Words in boxes: what went wrong, what to do where there is nothing yet, and whether one is sure.

import { html, useRef } from "../html.js";

/** An error in the server's own words; nothing where there is none. */
export function Problem({ error }) {
  if (!error) return null;
  return html`<p class="note bad" role="alert">${error.message ?? String(error)}</p>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

let dialogs = 0;

/** A button for what cannot be undone by a click: it asks once, and names what it is about.
 * `verb` is on the button, `name` is what it is done to; the children say what it means. */
export function Confirmed({ verb, name, isBusy = false, onYes, children }) {
  const dialog = useRef(null);
  const id = useRef(null);
  if (!id.current) {
    dialogs += 1;
    id.current = `confirm-${dialogs}`;
  }
  return html`<button class="small" disabled=${isBusy} aria-label=${`${verb} ${name}`}
      onClick=${() => dialog.current.showModal()}>${verb}</button>
    <dialog ref=${dialog} aria-labelledby=${id.current}><form method="dialog" class="stack">
      <h2 id=${id.current}>${verb} “${name}”?</h2>
      <p>${children}</p>
      <div class="row"><button class="danger" onClick=${onYes}>${verb} it</button>
        <button autofocus>Keep it</button></div></form></dialog>`;
}
