// Deleted models: one that was just deleted can be had back by a click, others for some days.

import { del, get, post } from "../api.js";
import { when } from "../format.js";
import { html, signal, useEffect, useSignal } from "../html.js";
import { restart } from "../live.js";
import { calledAs } from "./keep.js";
import { Problem } from "./notes.js";

/** The model that was deleted last on this page, as {id, name}. */
const last = signal(null);
/** What can be had back, as the server lists it; null until it has. */
const trash = signal(null);

async function look() {
  trash.value = (await get("/studio/api/trash")).data;
}

/** Moves a model to the trash. */
export async function deleteModel(id) {
  const name = calledAs(id);
  await del(`/v1/models/${encodeURIComponent(id)}`);
  last.value = { id, name };
  await look();
}

async function restore(id) {
  await post(`/studio/api/models/${encodeURIComponent(id)}/restore`);
  if (last.value?.id === id) last.value = null;
  await look();
}

/** Brings a model back; `verb` is what the button says. */
export function Restore({ id, name, verb = "Bring back", onDone }) {
  const problem = useSignal(null);
  const isBusy = useSignal(false);

  async function act() {
    isBusy.value = true;
    try {
      await restore(id);
      restart();
      onDone?.();
    } catch (error) {
      problem.value = error;
    }
    isBusy.value = false;
  }

  return html`<button class="small" disabled=${isBusy.value} aria-label=${`${verb}: ${name}`}
    onClick=${act}>${verb}</button><${Problem} error=${problem.value} />`;
}

/** What was deleted, with the way back. */
export function Trash() {
  const problem = useSignal(null);
  useEffect(() => { look().catch((error) => { problem.value = error; }); }, []);
  const others = (trash.value ?? []).filter(({ id }) => id !== last.value?.id);
  return html`<div role="status">${last.value && html`<p class="note row">
      <span>Deleted “${last.value.name}”.</span>
      <${Restore} verb="Undo" ...${last.value} /></p>`}</div>
    <${Problem} error=${problem.value} />
    ${others.length > 0 && html`<details><summary>${others.length} deleted, which can be brought
      back</summary><ul class="plain">${others.map((model) => html`<li key=${model.id} class="row">
        <b>${model.alias ?? calledAs(model.id)}</b>
        <span class="soft small-text">until ${when(model.restorable_until)}</span>
        <${Restore} id=${model.id} name=${model.alias ?? calledAs(model.id)} /></li>`)}</ul>
    </details>`}`;
}
