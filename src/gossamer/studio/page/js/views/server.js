// What the server does now, and who has its memory.

import { bytes, count, plural, seconds } from "../format.js";
import { html, useEffect, useRef } from "../html.js";
import { follow, session, topic } from "../live.js";
import { MemoryBar } from "../parts/memory_bar.js";
import { ThemeSwitch } from "../shell.js";

export const title = "Server";

export function View() {
  useEffect(() => follow("server"), []);
  const now = topic("server").value;
  const who = session.value;
  return html`<div class="view">
    <header class="head"><div><h1 tabindex="-1">Server</h1>
      <p class="sub">${who ? `${who.model}, context of ${count(who.max_context)} tokens, Gossamer
        ${who.version}` : "–"}</p></div>
      <div class="narrow-only"><${ThemeSwitch} name="theme-here" /></div></header>
    ${who && !who.admin && html`<p class="note">These figures are for administrators. Start the page
      from the link that <code>gossamer studio</code> prints, or sign in with an administrator's
      key.</p>`}
    ${who?.admin && !now && html`<p class="soft late">Loading…</p>`}
    ${now && html`<${Figures} now=${now} /><${Machine} now=${now} /><${Memory} now=${now} />
      <${Tenants} tenants=${now.tenants} />`}
  </div>`;
}

function Figures({ now }) {
  const speed = useSpeed(now.generated_tokens);
  const prefix = now.prefix_queried_tokens
    ? `${Math.round((100 * now.prefix_hit_tokens) / now.prefix_queried_tokens)} %` : "–";
  const cells = [
    ["Running", count(now.running)], ["Waiting", count(now.waiting)],
    ["New tokens", `${count(now.generated_tokens)}`], ["Speed", `${speed} tokens/s`],
    ["Prompt tokens", count(now.prompt_tokens)], ["Found in prefix cache", prefix],
    ["Adapters loaded", count(now.loads)], ["Evicted", count(now.evictions)],
    ["Preemptions", count(now.preemptions)],
  ];
  return html`<dl class="figures-row wide">${cells.map(([name, value]) => html`<div key=${name}>
    <dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** What people have felt of late, and what training and files leave of the machine. */
function Machine({ now }) {
  const { first_token: first, disk, training } = now;
  if (!first) return null;
  const share = training?.cpu_share;
  const busy = share === null ? "–" : `${Math.round(100 * share)} %`;
  return html`<section class="stack tight" aria-labelledby="machine">
    <h2 id="machine">Waiting and machine</h2>
    <dl class="figures-row wide">
      <div><dt>First token, half within</dt><dd>${seconds(first.p50 ?? NaN)}</dd></div>
      <div><dt>First token, 95 % within</dt><dd>${seconds(first.p95 ?? NaN)}</dd></div>
      ${disk && html`<div><dt>Disk left</dt><dd>${bytes(disk.free)}</dd></div>`}
      ${training && html`<div><dt>Training’s share of processors</dt><dd>${training.workers
        ? busy : "none trains"}</dd></div>`}
    </dl>
    <p class="soft small-text">First tokens of the last 5 minutes
      (${plural(first.count, "answer")}).${disk ? ` The disk has ${bytes(disk.total)}.` : ""}
      ${training?.workers > 0 && html` ${plural(training.workers, "job")} on
        ${" "}${plural(training.cpus, "processor")}.`}</p></section>`;
}

/** Tokens per second over the last seconds. */
function useSpeed(tokens) {
  const seen = useRef([]);
  const now = performance.now() / 1000;
  const last = seen.current.at(-1);
  if (!last || last[1] !== tokens) seen.current = [...seen.current, [now, tokens]].slice(-10);
  const [[since, from]] = seen.current;
  const passed = now - since;
  const isOld = last && now - last[0] > 10;
  return passed > 0.5 && !isOld ? Math.round((tokens - from) / passed) : 0;
}

function Memory({ now }) {
  const { block_bytes: size, blocks } = now;
  const shown = [
    { name: "Keys and values", size: blocks.kv * size, tone: "tone-1" },
    { name: "Cached prefixes", size: blocks.cached * size, tone: "tone-2" },
    { name: "Adapters", size: blocks.adapters * size, tone: "tone-3" },
    { name: "Free", size: blocks.free * size, tone: "tone-4" },
  ];
  const resident = Object.entries(now.resident_bytes).sort(([, one], [, other]) => other - one);
  return html`<section class="stack" aria-labelledby="pool"><h2 id="pool">Memory of the pool</h2>
    <p class="soft">One pool of ${bytes(blocks.total * size)} holds keys, values and adapters.</p>
    <${MemoryBar} parts=${shown}
      label=${shown.map((each) => `${each.name} ${bytes(each.size)}`).join(", ")} />
    <${Room} left=${(blocks.free + blocks.cached) * size} largest=${resident[0]?.[1]} />
    ${resident.length > 0 && html`<details>
      <summary>${plural(resident.length, "adapter")} in it</summary>
      <table class="facts"><tbody>${resident.map(([name, each]) => html`<tr key=${name}>
        <th scope="row">${name}</th><td class="number">${bytes(each)}</td></tr>`)}</tbody></table>
      </details>`}
  </section>`;
}

/** What fits beside what is in use: cached prefixes go where something else wants their place. */
function Room({ left, largest }) {
  const more = largest ? Math.floor(left / largest) : 0;
  return html`<p class="soft small-text">${bytes(left)} can be had at once${largest
    ? `: as much as ${plural(more, "adapter")} of the largest one’s size (${bytes(largest)}) take`
    : ""}. Idle adapters make room for more.</p>`;
}

function Tenants({ tenants }) {
  if (!tenants.length) return null;
  return html`<section class="stack" aria-labelledby="tenants"><h2 id="tenants">Tenants</h2>
    <div class="scroll"><table><thead><tr><th>Name</th><th class="number">Running</th>
      <th class="number">Waiting</th><th class="number">Prompt tokens</th>
      <th class="number">New tokens</th></tr></thead>
    <tbody>${tenants.map((each) => html`<tr key=${each.name}><td>${each.name}</td>
      <td class="number">${each.running}</td><td class="number">${each.waiting}</td>
      <td class="number">${count(each.prompt_tokens)}</td>
      <td class="number">${count(each.generated_tokens)}</td></tr>`)}</tbody></table></div>
        </section>`;
}
