// The settings of a job: those that differ from the defaults first.

import { catalogue, loadCatalogue, methodNamed } from "../catalogue.js";
import { html, useEffect } from "../html.js";
import { isSame } from "../new/draft.js";

export function SettingsOf({ job }) {
  useEffect(() => { loadCatalogue(); }, []);
  if (!catalogue.value) return null;
  const { method, ...adapter } = job.adapter ?? {};
  const known = methodNamed(method)?.settings ?? [];
  const rows = [
    ...rowsOf(adapter, known), ...rowsOf(job.training ?? {}, catalogue.value.training),
  ];
  const changed = rows.filter((row) => row.isChanged);
  const others = rows.filter((row) => !row.isChanged);
  return html`<div class="stack">
    <${Table} rows=${[{ name: "method", text: method }, { name: "seed", text: String(job.seed) },
      ...changed]} />
    ${others.length > 0 && html`<details><summary>${others.length} at their defaults</summary>
      <${Table} rows=${others} /></details>`}
  </div>`;
}

function rowsOf(values, settings) {
  return Object.entries(values).map(([name, value]) => {
    const setting = settings.find((each) => each.name === name);
    const isChanged = Boolean(setting) && !isSame(setting.default, value);
    return { name, text: plain(value), isChanged, usual: setting && plain(setting.default) };
  });
}

function plain(value) {
  if (value === null || value === undefined) return "unset";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function Table({ rows }) {
  return html`<div class="scroll"><table class="facts"><tbody>
    ${rows.map(({ name, text, isChanged, usual }) => html`<tr key=${name}>
      <th scope="row"><code>${name}</code></th><td><code>${text}</code></td>
      <td class="soft small-text">${isChanged ? `default ${usual}` : ""}</td></tr>`)}
  </tbody></table></div>`;
}
