// One question and its answers side by side.

import { seconds } from "../format.js";
import { html } from "../html.js";
import { CopyButton } from "../parts/copy.js";
import { calledAs } from "../parts/keep.js";
import { Markdown } from "../parts/markdown.js";
import { answer, isAnswering, models, setBetter } from "./thread.js";

export function Turn({ turn }) {
  const names = [...new Set([...models.value, ...Object.keys(turn.answers)])]
    .filter((name) => turn.answers[name]);
  return html`<article class="turn">
    <p class="question"><span class="hidden-text">You: </span>${turn.question}</p>
    <div class="columns" data-count=${names.length}>${names.map((name) => html`<${Answer}
      key=${name}
      turn=${turn} name=${name} said=${turn.answers[name]} isAlone=${names.length === 1} />`)}</div>
  </article>`;
}

function Answer({ turn, name, said, isAlone }) {
  const isOver = !["waiting", "answering"].includes(said.state);
  const isBetter = turn.better === name;
  return html`<section class="answer ${isBetter ? "better" : ""}"
    aria-label=${`Answer of ${calledAs(name)}`}
    aria-busy=${!isOver}>
    <h3 class="cut" title=${name}>${calledAs(name)}</h3>
    <div class="text">
      ${said.text && html`<${Markdown} text=${said.text} />`}
      ${said.state === "waiting" && html`<p class="soft late">…</p>`}
      ${said.error && html`<p class="note bad">${said.error}</p>`}
      ${said.state === "stopped" && html`<p class="soft small-text">Stopped.</p>`}
    </div>
    ${isOver && html`<div class="row told">
      <span class="soft small-text">${told(said.told)}</span>
      <div class="row">
        ${said.text && html`<${CopyButton} text=${said.text} quiet />`}
        <button class="small quiet" disabled=${isAnswering.value}
          aria-label=${`Ask ${calledAs(name)} again`}
          onClick=${() => answer(turn.id, [name])}>Again</button>
        ${!isAlone && said.state === "done" && html`<button class="small quiet"
          aria-pressed=${isBetter} aria-label=${`${calledAs(name)} is better`}
          onClick=${() => setBetter(turn.id, name)}>Better</button>`}
      </div></div>`}
  </section>`;
}

function told(done) {
  if (!done) return "";
  const { completion_tokens: tokens, first_token_seconds: first, seconds: all } = done;
  const after = all - first;
  const speed = tokens > 1 && after > 0 ? ` · ${Math.round((tokens - 1) / after)} tokens/s` : "";
  const cut = done.finish_reason === "length" ? " · cut at max tokens" : "";
  return `first token ${seconds(first)}${speed} · ${tokens} tokens${cut}`;
}
