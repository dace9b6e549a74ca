// A tuned model under a name of one's own: what it is called, and the button that names it.

import { del, post } from "../api.js";
import { html, useRef, useSignal } from "../html.js";
import { restart, session, topic } from "../live.js";
import { shortName } from "./job_words.js";
import { Problem } from "./notes.js";

/** The parts of a tuned model's name that matter here; null for all else, checkpoints too. */
function tuned(name) {
  const [ft, , tenant, suffix, id, ...rest] = name.split(/[:+]/);
  return ft === "ft" && id && !rest.length ? { tenant, suffix } : null;
}

/** Whether the person who looks may name a model. */
export function isMine(name) {
  const found = tuned(name);
  return Boolean(found) && (session.value?.admin || found.tenant === session.value?.tenant);
}

/** The name that a person has given to a model, as the list of adapters has it; else null. */
export function aliasOf(name) {
  const adapters = topic("adapters").value?.data ?? [];
  return adapters.find((adapter) => adapter.alias_of === name)?.id ?? null;
}

/** What people call a model: its alias, else its short name. */
export function calledAs(name) {
  return aliasOf(name) ?? shortName(name);
}

/** The address of a model's files as a zip. */
export function downloadOf(name) {
  return `/studio/api/models/${encodeURIComponent(name)}/archive`;
}

let dialogs = 0;

/** "Keep as…" for a model without an alias, "Rename…" for one that has one. */
export function KeepAs({ model, alias = aliasOf(model), quiet = false, onKept }) {
  const dialog = useRef(null);
  const id = useRef(null);
  const problem = useSignal(null);
  const isBusy = useSignal(false);
  if (!id.current) {
    dialogs += 1;
    id.current = `keep-${dialogs}`;
  }
  const name = alias ?? shortName(model);
  const at = `/studio/api/models/${encodeURIComponent(model)}/alias`;

  async function act(work) {
    isBusy.value = true;
    problem.value = null;
    try {
      const kept = await work();
      dialog.current?.close();
      onKept?.(kept);
      restart();
    } catch (error) {
      problem.value = error;
    }
    isBusy.value = false;
  }

  function keep(event) {
    event.preventDefault();
    const wanted = String(new FormData(event.target).get("alias")).trim();
    act(() => post(at, { alias: wanted }));
  }

  return html`<button type="button" class="small ${quiet ? "quiet" : ""}"
      aria-label=${`${alias ? "Rename" : "Keep"} ${name}`}
      onClick=${() => dialog.current.showModal()}>${alias ? "Rename…" : "Keep as…"}</button>
    <dialog ref=${dialog} aria-labelledby=${id.current}><form class="stack" onSubmit=${keep}>
      <h2 id=${id.current}>${alias ? `Rename “${alias}”` : `Keep “${name}” as`}</h2>
      <label class="stack tight">Name<input name="alias" required maxlength="64" autocomplete="off"
        spellcheck="false" autofocus value=${alias ?? tuned(model)?.suffix ?? ""} /></label>
      <p class="soft small-text">Programs find it under this name, too, in
        ${" "}<code>model</code>. Letters, digits, dots, hyphens and underscores.</p>
      <${Problem} error=${problem.value} />
      <div class="row"><button class="primary" disabled=${isBusy.value}>Keep</button>
        ${alias && html`<button type="button" disabled=${isBusy.value}
          onClick=${() => act(() => del(at))}>Take the name away</button>`}
        <button type="button" onClick=${() => dialog.current.close()}>Cancel</button></div>
    </form></dialog>`;
}
