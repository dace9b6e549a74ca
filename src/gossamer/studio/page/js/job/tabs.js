// Beneath the curve: what happened, what was set, what was saved, which files there are.

import { html } from "../html.js";
import { query, setQuery } from "../router.js";
import { Checkpoints } from "./checkpoints.js";
import { Events } from "./events.js";
import { Files } from "./files.js";
import { SettingsOf } from "./settings_of.js";

const TABS = [
  ["events", "Events", Events], ["settings", "Settings", SettingsOf],
  ["checkpoints", "Checkpoints", Checkpoints], ["files", "Files", Files],
];

export function Tabs({ job }) {
  const chosen = query.value.get("tab") ?? "events";
  const [, , Shown] = TABS.find(([name]) => name === chosen) ?? TABS[0];
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const index = TABS.findIndex(([name]) => name === chosen) + step;
    const [next] = TABS[(index + TABS.length) % TABS.length];
    setQuery({ tab: next });
    document.getElementById(`tab-${next}`).focus();
  };
  return html`<section class="stack">
    <div class="tabs" role="tablist" aria-label="About this job" onKeyDown=${move}>
      ${TABS.map(([value, name]) => html`<button key=${value} id=${`tab-${value}`} role="tab"
        aria-selected=${chosen === value} aria-controls="tab-panel"
        tabindex=${chosen === value ? 0 : -1}
        onClick=${() => setQuery({ tab: value })}>${name}</button>`)}
    </div>
    <div id="tab-panel" role="tabpanel" aria-labelledby=${`tab-${chosen}`}>
      <${Shown} job=${job} /></div>
  </section>`;
}
