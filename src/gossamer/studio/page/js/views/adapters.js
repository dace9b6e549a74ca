// All adapters that can be named: where they are, who uses them, and what can be done.

import { del, put } from "../api.js";
import { ago, bytes, count } from "../format.js";
import { html, useEffect, useSignal } from "../html.js";
import { follow, restart, session, topic } from "../live.js";
import { Import } from "../imports/form.js";
import { calledAs, downloadOf, isMine, KeepAs } from "../parts/keep.js";
import { Menu } from "../parts/menu.js";
import { Confirmed, Empty, Problem } from "../parts/notes.js";
import { deleteModel, Trash } from "../parts/trash.js";
import { href, query, setQuery } from "../router.js";
import { ProofAndExport } from "../kinds/buttons.js";

export const title = "Adapters";

const STATES = {
  resident: "in memory, ready", host: "in memory", loading: "loading", registered: "on disk",
  draining: "leaving", refused: "refused",
};

export function View() {
  useEffect(() => follow("adapters"), []);
  const news = topic("adapters").value;
  const find = (query.value.get("find") ?? "").toLowerCase();
  const shown = rowsOf(news?.data ?? []).filter(({ id }) => (
    `${id} ${calledAs(id)}`.toLowerCase().includes(find)));
  return html`<div class="view">
    <header class="head"><div><h1 tabindex="-1">Adapters</h1>
      <p class="sub">Each is a name in <code>model</code>. All answer in one batch with the
        base.</p></div>
      ${news?.data.length > 0 && html`<input type="search" placeholder="Filter by name" data-filter
        aria-label="Filter" value=${query.value.get("find") ?? ""}
        onInput=${(event) => setQuery({ find: event.target.value })} />`}</header>
    <${Trash} />
    ${news?.problem && html`<${Problem} error=${news.problem} />`}
    ${!news && html`<p class="soft late">Loading…</p>`}
    ${news && !news.data.length && html`<${Empty} title="No adapters yet">
      <p>Tune one, or drop a PEFT folder below.</p>
      <p><a class="button primary" href=${href("/new")}>Tune the first adapter</a></p><//>`}
    ${shown.length > 0 && html`<${Table} adapters=${shown} />`}
    ${session.value?.train && mayManage() && html`<${Import} />`}
  </div>`;
}

/** Whether the person has shown a key, or the session that the command opens. */
function mayManage() {
  return session.value?.admin || session.value?.has_keys;
}

/** The adapters; the second names of tuned models stand in the rows of these. */
function rowsOf(adapters) {
  const known = new Set(adapters.map(({ id }) => id));
  return adapters.filter(({ alias_of: model }) => !(model?.startsWith("ft:") && known.has(model)));
}

function Table({ adapters }) {
  const isAdmin = session.value?.admin;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of adapters"><table
    class="stacked adapters">
    <thead><tr><th>Name</th><th>State</th><th>Kind</th><th class="number">Rank</th>
      <th class="number">Size</th><th class="number">Requests</th><th>Last used</th>
      <th><span class="hidden-text">Actions</span></th></tr></thead>
    <tbody>${adapters.map((adapter) => html`<tr key=${adapter.id}>
      <td><b class="name" title=${adapter.id}>${calledAs(adapter.id)}</b>
        ${adapter.digest && html`<br />
          <code class="soft" title="Digest">${adapter.digest.slice(0, 12)}</code>`}
        ${ownerOf(adapter.id) && html`<br /><span class="soft small-text">of
          ${" "}${ownerOf(adapter.id)}</span>`}</td>
      <td class=${adapter.state === "refused" ? "bad" : ""}>${words(adapter)}</td>
      <td data-label="Kind" class="kind">${adapter.kind ?? "–"}</td>
      <td class="number" data-label="Rank">${adapter.rank ?? "–"}</td>
      <td class="number" data-label="Size">${bytes(adapter.num_bytes)}</td>
      <td class="number" data-label="Requests">${count(adapter.hits)}</td>
      <td data-label="Last used" class="kind">${ago(adapter.last_used)}</td>
      <td class="end"><${Actions} adapter=${adapter} isAdmin=${isAdmin} /></td></tr>`)}</tbody>
  </table></div>`;
}

/** The tenant whose job made it, where that is not the one who looks. */
function ownerOf(id) {
  const [ft, , tenant, , made] = id.split(":");
  return ft === "ft" && made && tenant !== session.value?.tenant ? tenant : null;
}

function words({ state, pinned, problem }) {
  return `${STATES[state] ?? state}${pinned ? ", pinned" : ""}${problem ? `: ${problem}` : ""}`;
}

function Actions({ adapter, isAdmin }) {
  const problem = useSignal(null);
  const isBusy = useSignal(false);
  const at = `/v1/adapters/${encodeURIComponent(adapter.id)}`;
  const name = calledAs(adapter.id);
  const isTuned = adapter.id.startsWith("ft:");

  async function act(work) {
    isBusy.value = true;
    problem.value = null;
    try {
      await work();
      restart();
    } catch (error) {
      problem.value = error;
    }
    isBusy.value = false;
  }

  const chat = encodeURIComponent(`${session.value?.model},${adapter.id}`);
  const pinned = () => (adapter.pinned ? del(`${at}/pin`) : put(`${at}/pin`));
  const isGood = adapter.state !== "refused";
  const hasMore = isMine(adapter.id) || (isGood && (isAdmin || session.value?.train));
  const pin = isAdmin && isGood && html`<button class="small" disabled=${isBusy.value}
    aria-label=${`${adapter.pinned ? "Unpin" : "Pin"} ${name}`}
    onClick=${() => act(pinned)}>${adapter.pinned ? "Unpin" : "Pin"}</button>`;
  return html`<div class="row actions">
    ${isGood && html`<a class="button small" aria-label=${`Chat with ${name}`}
      href=${href(`/chat?models=${chat}`)}>Chat</a>`}
    ${isMine(adapter.id) && html`<${KeepAs} model=${adapter.id} />`}
    ${isTuned ? hasMore && html`<${Menu} name=${name}>
        ${isGood && session.value?.train
          && html`<${ProofAndExport} model=${adapter.id} name=${name} />`}
        ${isMine(adapter.id) && html`<a class="button small" aria-label=${`Download ${name}`}
          download href=${downloadOf(adapter.id)}>Download</a>`}
        ${pin}
        ${isMine(adapter.id) && mayManage() && html`<button class="small danger"
          disabled=${isBusy.value} aria-label=${`Delete ${name}`}
          onClick=${() => act(() => deleteModel(adapter.id))}>Delete</button>`}<//>`
      : html`${pin}${isAdmin && isGood && html`<${Confirmed} verb="Unload" name=${name}
        isBusy=${isBusy.value} onYes=${() => act(() => del(at))}>
        New requests no longer find it; those under way end first. Its files stay.<//>`}`}
    <${Problem} error=${problem.value} />
  </div>`;
}
