// What happened to a job, newest first, in the server's words.

import { when } from "../format.js";
import { html } from "../html.js";
import { Problem } from "../parts/notes.js";

export function Events({ life }) {
  return html`<div class="stack tight">
    <${Problem} error=${life.problem} />
    <ol class="events">${life.told.map((event) => html`<li key=${event.id} class=${event.level}>
      <time class="soft small-text">${when(event.created_at)}</time>
      <span>${event.message}</span></li>`)}</ol>
    ${life.hasMore && html`<div><button class="small" onClick=${life.older}>Older events</button>
      </div>`}
  </div>`;
}
