// A new adapter in three parts: data, method, run. What is chosen stands in the address.

import { get } from "../api.js";
import { catalogue, loadCatalogue } from "../catalogue.js";
import { html, useEffect, useSignal } from "../html.js";
import { Data } from "../new/data.js";
import { queryOf } from "../new/draft.js";
import { keepEstimating } from "../new/estimates.js";
import { Methods } from "../new/methods.js";
import { Run } from "../new/run.js";
import { Problem } from "../parts/notes.js";
import { query, setQuery } from "../router.js";

export const title = "New adapter";

export function View() {
  const problem = useSignal(null);
  const from = query.value.get("from");
  useEffect(() => {
    loadCatalogue().then(() => from && fillFrom(from)).catch((error) => { problem.value = error; });
    return keepEstimating();
  }, [from]);

  return html`<div class="view new">
    <header class="head"><h1 tabindex="-1">New adapter</h1></header>
    <${Problem} error=${problem.value} />
    <${Data} />
    ${catalogue.value && html`<${Methods} /><${Run} />`}
  </div>`;
}

/** Fills the form like an earlier job. */
async function fillFrom(id) {
  const job = await get(`/v1/fine_tuning/jobs/${encodeURIComponent(id)}`);
  setQuery({ from: "", ...queryOf(job) });
}
