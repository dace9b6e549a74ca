// Beneath the curve: what happened, what was set, what was saved, which files there are.

import { html } from "../html.js";
import { session } from "../live.js";
import { query, setQuery } from "../router.js";
import { Checkpoints } from "./checkpoints.js";
import { DataOf } from "./data_of.js";
import { Events } from "./events.js";
import { Files } from "./files.js";
import { Log } from "./log.js";
import { SettingsOf } from "./settings_of.js";

const ALL = [
  ["events", "Events", Events], ["settings", "Settings", SettingsOf],
  ["data", "Data report", DataOf], ["checkpoints", "Checkpoints", Checkpoints],
  ["files", "Files", Files], ["log", "Log", Log],
];

export function Tabs({ job, life }) {
  const tabs = ALL.filter(([name]) => name !== "log" || session.value?.admin);
  const chosen = query.value.get("tab") ?? "events";
  const [, , Shown] = tabs.find(([name]) => name === chosen) ?? tabs[0];
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const index = tabs.findIndex(([name]) => name === chosen) + step;
    const [next] = tabs[(index + tabs.length) % tabs.length];
    setQuery({ tab: next });
    document.getElementById(`tab-${next}`).focus();
  };
  return html`<section class="stack">
    <div class="tabs" role="tablist" aria-label="About this job" onKeyDown=${move}>
      ${tabs.map(([value, name]) => html`<button key=${value} id=${`tab-${value}`} role="tab"
        aria-selected=${chosen === value} aria-controls="tab-panel"
        tabindex=${chosen === value ? 0 : -1}
        onClick=${() => setQuery({ tab: value })}>${name}</button>`)}
    </div>
    <div id="tab-panel" role="tabpanel" aria-labelledby=${`tab-${chosen}`}>
      <${Shown} job=${job} life=${life} /></div>
  </section>`;
}
