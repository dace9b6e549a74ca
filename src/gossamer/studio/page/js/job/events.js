// What happened to a job, newest first, in the server's words.

import { get } from "../api.js";
import { when } from "../format.js";
import { html, useEffect, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";

/** Most of them tell of steps, which are in the curve. */
const PAGE = 1000;

export function Events({ job }) {
  const events = useSignal(null);
  const hasMore = useSignal(false);
  const problem = useSignal(null);

  async function load(after) {
    const cursor = after ? `&after=${encodeURIComponent(after)}` : "";
    try {
      const path = `/v1/fine_tuning/jobs/${job.id}/events?limit=${PAGE}${cursor}`;
      const answer = await get(path);
      events.value = after ? [...events.value, ...answer.data] : answer.data;
      hasMore.value = answer.has_more;
    } catch (error) {
      problem.value = error;
    }
  }
  // Steps are in the curve; events of a job's life come with these changes.
  const life = [job.status, job.progress?.reason, Math.floor((job.progress?.step ?? 0) / 25)];
  useEffect(() => { load(); }, [job.id, ...life]);

  const told = (events.value ?? []).filter((event) => event.type !== "metrics");
  return html`<div class="stack tight">
    <${Problem} error=${problem.value} />
    <ol class="events">${told.map((event) => html`<li key=${event.id} class=${event.level}>
      <time class="soft small-text">${when(event.created_at)}</time>
      <span>${event.message}</span></li>`)}</ol>
    ${hasMore.value && html`<div><button class="small"
      onClick=${() => load(events.value.at(-1).id)}>Older events</button></div>`}
  </div>`;
}
