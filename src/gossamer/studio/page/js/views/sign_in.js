// Asks who is there, where the server wants to know.

import { post } from "../api.js";
import { html, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";

export const title = "Sign in";

export function View({ done }) {
  const problem = useSignal(null);
  const isBusy = useSignal(false);

  async function signIn(event) {
    event.preventDefault();
    const key = String(new FormData(event.target).get("key")).trim();
    isBusy.value = true;
    problem.value = null;
    try {
      await post("/studio/session", { key });
      done();
    } catch (error) {
      problem.value = error;
      isBusy.value = false;
    }
  }

  return html`<div class="view narrow">
    <h1 tabindex="-1">Sign in</h1>
    <p>This server asks for a key. It stays in this browser as a session of 12 hours; the key itself
      is not kept. Keys are made with <code>gossamer keys add NAME</code>.</p>
    <form class="stack" onSubmit=${signIn}>
      <label class="stack tight">API key
        <input name="key" type="password" autocomplete="current-password" required
          spellcheck="false" /></label>
      <div><button class="primary" disabled=${isBusy.value}>Sign in</button></div>
      <${Problem} error=${problem.value} />
    </form>
  </div>`;
}
