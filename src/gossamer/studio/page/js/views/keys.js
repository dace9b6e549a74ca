// Keys and tenants: who may call, and what each may use.

import { del, get, post } from "../api.js";
import { html, useEffect, useSignal } from "../html.js";
import { session } from "../live.js";
import { CopyButton } from "../parts/copy.js";
import { Confirmed, Problem } from "../parts/notes.js";

export const title = "Keys";

const AT = "/studio/api/keys";

export function View() {
  const content = useSignal(null);
  const problem = useSignal(null);
  const made = useSignal(null);
  const who = session.value;
  const canShow = who?.admin && who.key_file;

  async function load() {
    try {
      content.value = await get(AT);
    } catch (error) {
      problem.value = error;
    }
  }
  useEffect(() => { if (canShow) load(); }, [canShow]);

  return html`<div class="view">
    <header class="head"><div><h1 tabindex="-1">Keys</h1>
      <p class="sub">A tenant has keys, and what it may use. A change counts from the next call.</p>
    </div></header>
    ${who && !who.key_file && html`<p class="note">This server was started without a file of keys:
      everyone who reaches it may use it. To share it, make one with
      ${" "}<code>gossamer keys add NAME --admin</code> and serve with
      ${" "}<code>--keys keys.yaml</code>.</p>`}
    ${who?.key_file && !who.admin && html`<p class="note">Keys are for administrators.</p>`}
    <${Problem} error=${problem.value} />
    ${made.value && html`<${Made} made=${made.value} onClose=${() => { made.value = null; }} />`}
    ${canShow && html`<${NewKey} onMade=${(answer) => { made.value = answer; load(); }} />`}
    ${content.value && html`<${Table} content=${content.value} onChange=${load} />`}
  </div>`;
}

/** The key that has just been made: the one moment in which it can be read. */
function Made({ made, onClose }) {
  return html`<div class="note stack tight" role="status">
    <p>The key of <b>${made.tenant}</b>. It is shown once; only its hash is kept.</p>
    <div class="row"><code>${made.key}</code><${CopyButton} text=${made.key} />
      <button class="small" onClick=${onClose}>I have it</button></div></div>`;
}

function NewKey({ onMade }) {
  const problem = useSignal(null);

  async function make(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    const textOf = (name) => String(form.get(name)).trim();
    const adapters = textOf("adapters").split(",").map((each) => each.trim()).filter(Boolean);
    /** @type {Record<string, any>} */
    const body = { tenant: textOf("tenant") };
    if (adapters.length) body.adapters = adapters;
    for (const right of ["train", "admin"]) if (form.has(right)) body[right] = true;
    problem.value = null;
    try {
      onMade(await post(AT, body));
      event.target.reset();
    } catch (error) {
      problem.value = error;
    }
  }

  return html`<form class="stack" onSubmit=${make}>
    <div class="row wide-gaps ends">
      <label class="stack tight">Tenant
        <input name="tenant" required autocomplete="off" spellcheck="false" /></label>
      <label class="stack tight">Adapters it may use
        <input name="adapters" placeholder="team-*, or * for all" spellcheck="false" /></label>
      <label class="row"><input type="checkbox" name="train" />may train</label>
      <label class="row"><input type="checkbox" name="admin" />administrator</label>
      <button class="primary">Make a key</button>
    </div>
    <${Problem} error=${problem.value} /></form>`;
}

function Table({ content, onChange }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of keys"><table>
    <thead><tr><th>Tenant</th><th>Key</th><th>Adapters</th><th>Rights</th><th>Made</th>
      <th><span class="hidden-text">Actions</span></th></tr></thead>
    <tbody>${content.keys.map((key) => {
      const tenant = content.tenants[key.tenant] ?? { adapters: [] };
      const rights = [tenant.admin && "administrator", tenant.train && "training", "chat"];
      return html`<tr key=${key.id}><td><b>${key.tenant}</b></td><td><code>${key.id}</code></td>
        <td>${tenant.adapters.join(", ") || "the base only"}</td>
        <td>${rights.filter(Boolean).join(", ")}</td><td>${key.created}</td>
        <td><${Revoke} id=${key.id} tenant=${key.tenant} onChange=${onChange} /></td></tr>`;
    })}</tbody></table></div>`;
}

function Revoke({ id, tenant, onChange }) {
  const problem = useSignal(null);

  async function revoke() {
    try {
      await del(`${AT}/${id}`);
      onChange();
    } catch (error) {
      problem.value = error;
    }
  }

  return html`<div class="row actions">
    <${Confirmed} verb="Revoke" name=${`${tenant}, ${id}`} onYes=${revoke}>
      Programs that use this key are refused from the next call on.<//>
    <${Problem} error=${problem.value} /></div>`;
}
