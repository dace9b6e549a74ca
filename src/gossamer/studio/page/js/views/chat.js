// Talk to the base model and to adapters at once: one question, one batch, one stream.

import { Turn } from "../chat/answers.js";
import { Columns } from "../chat/columns.js";
import { Composer } from "../chat/composer.js";
import { earlier, exported, forget, keep } from "../chat/history.js";
import { Prompts } from "../chat/prompts.js";
import { begin, isAnswering, models, setModels, turns } from "../chat/thread.js";
import { when } from "../format.js";
import { html, useEffect, useRef, useSignal } from "../html.js";
import { follow } from "../live.js";

export const title = "Chat";

export function View() {
  const id = useRef(String(Date.now()));
  const end = useRef(null);
  useEffect(() => follow("adapters"), []);
  useEffect(() => {
    if (isAnswering.value || !turns.value.length) return;
    const chat = { id: id.current, time: Date.now(), models: models.value, turns: turns.value };
    keep(chat).catch(() => {}); // A browser that keeps nothing can chat all the same.
  }, [isAnswering.value, turns.value.length]);
  useEffect(() => { end.current?.scrollIntoView({ block: "end" }); }, [turns.value.length]);

  function open(chat) {
    id.current = chat?.id ?? String(Date.now());
    begin(chat?.turns ?? []);
    if (chat) setModels(chat.models);
  }

  return html`<div class="view chat">
    <header class="head"><h1 tabindex="-1">Chat</h1>
      <div class="row">${turns.value.length > 0 && html`<${Save} />
        <button class="small" onClick=${() => open(null)}>New chat</button>`}</div></header>
    <${Columns} />
    <div class="thread" aria-live="off">
      ${turns.value.map((turn) => html`<${Turn} key=${turn.id} turn=${turn} />`)}
      ${!turns.value.length && html`<${Start} open=${open} />`}
      <div ref=${end}></div>
    </div>
    <p class="hidden-text" aria-live="polite">${isAnswering.value ? "Answering."
      : turns.value.length ? "All have answered." : ""}</p>
    <${Composer} />
  </div>`;
}

function Save() {
  const download = () => {
    const url = URL.createObjectURL(exported({ turns: turns.value }));
    const link = Object.assign(document.createElement("a"), { href: url, download: "chat.jsonl" });
    link.click();
    URL.revokeObjectURL(url);
  };
  return html`<button class="small" onClick=${download}>Save as file</button>`;
}

function Start({ open }) {
  const chats = useSignal([]);
  const load = () => earlier().then((all) => { chats.value = all; }, () => {});
  useEffect(() => { load(); }, []);
  return html`<div class="stack">
    <p class="soft">Ask something below. All models above answer it in one batch, so what differs
      is the adapters and nothing else.</p>
    <${Prompts} />
    ${chats.value.length > 0 && html`<details><summary>${chats.value.length} earlier, kept in this
      browser only</summary><ul class="plain">${chats.value.slice(0, 20).map((chat) => html`<li
      key=${chat.id} class="row">
      <button class="quiet cut" onClick=${() => open(chat)}>${chat.turns[0].question.slice(0, 80)}
        </button>
      <span class="soft small-text">${when(chat.time / 1000)}</span>
      <button class="quiet small" aria-label=${`Forget: ${chat.turns[0].question.slice(0, 40)}`}
        onClick=${() => forget(chat.id).then(load)}>Forget</button></li>`)}</ul></details>`}
  </div>`;
}
