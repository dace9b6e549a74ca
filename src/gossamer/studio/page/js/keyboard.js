// Keys that lead everywhere without a mouse; off while a person types.

import { html, render } from "./html.js";
import { go } from "./router.js";

const PLACES = {
  j: ["/", "Jobs"], n: ["/new", "New adapter"], c: ["/chat", "Chat"], a: ["/adapters", "Adapters"],
  m: ["/compare", "Compare"], d: ["/data", "Data"], s: ["/server", "Server"], k: ["/keys", "Keys"],
};
const OTHERS = [
  ["n", "New adapter"], ["/", "Filter"], ["Enter", "Ask"], ["Esc", "Stop answering"],
  ["?", "This list"],
];
const PREFIX_MS = 1200;

let prefixAt = 0;

/** Listens from now on; `first` are the keys since this module was asked for. */
export function listenToKeys(first) {
  document.addEventListener("keydown", onKey);
  first.forEach(onKey);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const isSecond = event.timeStamp - prefixAt < PREFIX_MS;
  prefixAt = 0;
  if (isSecond && PLACES[event.key]) go(PLACES[event.key][0]);
  else if (event.key === "g") prefixAt = event.timeStamp;
  else if (event.key === "n") go("/new");
  else if (event.key === "?") showList();
  else if (event.key === "/") {
    /** @type {HTMLElement | null} */
    const filter = document.querySelector("[data-filter]");
    if (!filter) return;
    event.preventDefault();
    filter.focus();
  }
}

function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]");
}

function showList() {
  const rows = Object.entries(PLACES).map(([key, [, name]]) => [`g ${key}`, name]).concat(OTHERS);
  const place = document.createElement("div");
  document.body.append(place);
  const close = () => { render(null, place); place.remove(); };
  render(html`<dialog onClose=${close} aria-labelledby="keys-list"><form method="dialog"
    class="stack">
    <h2 id="keys-list">Keys</h2>
    <dl class="keys">${rows.map(([keys, name]) => html`<div key=${keys}>
      <dt>${keys.split(" ").map((key) => html`<kbd key=${key}>${key}</kbd> `)}</dt>
      <dd>${name}</dd></div>`)}</dl>
    <div><button autofocus>Close</button></div>
  </form></dialog>`, place);
  place.querySelector("dialog").showModal();
}
