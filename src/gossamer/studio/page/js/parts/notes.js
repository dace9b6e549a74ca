// Small boxes of words: what went wrong, and what to do where there is nothing yet.

import { html } from "../html.js";

/** An error in the server's own words; nothing where there is none. */
export function Problem({ error }) {
  if (!error) return null;
  return html`<p class="note bad" role="alert">${error.message ?? String(error)}</p>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}
