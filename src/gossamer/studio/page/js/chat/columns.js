// Which models answer: chips that can be taken away, one more, or a blend of several.

import { Fragment, html, useSignal } from "../html.js";
import { session, topic } from "../live.js";
import { aliasOf, calledAs, isMine, KeepAs } from "../parts/keep.js";
import { MAX_COLUMNS, models, setModels, wins } from "./thread.js";

/** The names that can be asked: the base model and every adapter that is not refused. */
function nameable() {
  const adapters = (topic("adapters").value?.data ?? []).filter(({ state }) => state !== "refused");
  // A model that was given a name is offered by that name alone.
  const named = new Set(adapters.map(({ alias_of: model }) => isMine(model ?? "") && model));
  const names = adapters.map(({ id }) => id).filter((id) => !named.has(id));
  return [session.value?.model, ...names].filter(Boolean);
}

export function Columns() {
  const chosen = models.value;
  const known = new Set([...chosen, ...chosen.map(calledAs)]);
  const others = nameable().filter((name) => !known.has(name));
  return html`<div class="row chips" role="group" aria-label="Who answers">
    ${chosen.map((name) => html`<${Fragment} key=${name}><span class="chip">
      <span class="cut" title=${name}>${calledAs(name)}</span>
      ${wins.value.has(name) && html`<span class="soft small-text">
        better ${wins.value.get(name)} ×</span>`}
      ${chosen.length > 1 && html`<button class="quiet small"
        aria-label=${`Take ${calledAs(name)} away`}
        onClick=${() => setModels(chosen.filter((each) => each !== name))}>×</button>`}</span>
      ${isMine(name) && !aliasOf(name) && html`<${KeepAs} model=${name} />`}<//>`)}
    ${others.length > 0 && chosen.length < MAX_COLUMNS && html`<select aria-label="Add a model"
      value="" onChange=${(event) => setModels([...chosen, event.target.value])}>
      <option value="">Add a model…</option>
      ${others.map((name) => html`<option key=${name} value=${name}>${calledAs(name)}</option>`)}
        </select>`}
    ${nameable().length > 2 && html`<${Blend} />`}
  </div>`;
}

/** Builds a name such as `pirate:0.7+quiz:0.3`. */
function Blend() {
  const adapters = nameable().slice(1);
  const parts = useSignal([[adapters[0], 0.5], [adapters[1], 0.5]]);
  const change = (index, part) => {
    parts.value = parts.value.map((each, at) => (at === index ? part : each));
  };
  const more = () => { parts.value = [...parts.value, [adapters[0], 0.3]]; };
  const name = parts.value.map(([each, weight]) => `${each}:${weight}`).join("+");
  return html`<details class="blend"><summary>Blend</summary>
    <div class="stack tight">
      ${parts.value.map(([each, weight], index) => html`<div class="row" key=${index}>
        <select aria-label=${`Adapter ${index + 1}`} value=${each}
          onChange=${(event) => change(index, [event.target.value, weight])}>
          ${adapters.map((one) => html`<option key=${one} value=${one}>${calledAs(one)}
            </option>`)}</select>
        <input type="number" step="0.1" class="short" aria-label=${`Weight of adapter ${index + 1}`}
          value=${weight}
          onChange=${(event) => change(index, [each, Number(event.target.value)])} />
      </div>`)}
      <div class="row">
        <button class="small" onClick=${more}>One more</button>
        <button class="small primary" onClick=${() => setModels([...models.value, name])}>
          Add the blend</button></div>
    </div></details>`;
}
