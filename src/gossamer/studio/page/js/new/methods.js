// Part 2 of a new adapter: how to learn. Each card says what it costs before anything is started.

import { catalogue, methodNamed } from "../catalogue.js";
import { count } from "../format.js";
import { html, useSignal } from "../html.js";
import { setQuery } from "../router.js";
import { draft, setMethods, sizes } from "./draft.js";
import { SettingsForm } from "./settings.js";

const FIRST = ["lora", "dora", "ia3", "loreft", "smt", "prefix_tuning"];
const SIZES = ["small", "medium", "large"];

export function Methods() {
  const showsAll = useSignal(draft.value.methods.some((name) => !FIRST.includes(name)));
  if (!draft.value.file) return html`<${Later} />`;
  const all = catalogue.value.methods;
  const first = FIRST.map(methodNamed).filter(Boolean);
  const shown = showsAll.value ? [...first, ...all.filter((each) => !first.includes(each))] : first;
  const { methods, size } = draft.value;
  return html`<section class="part" aria-labelledby="part-method">
    <h2 id="part-method"><span class="step">2</span> Method</h2>
    <div class="stack">
      <p class="soft">One is enough. Tick more to compare them in one job, on the same rows.
        Weights, time and memory are those measured on SmolLM2-135M with the defaults.</p>
      <div class="cards">${shown.map((method) => html`<${Card} key=${method.name} method=${method}
        isChosen=${methods.includes(method.name)} />`)}</div>
      <div class="row spread">
        <fieldset class="row"><legend class="hidden-text">Size</legend><span>Size</span>
          ${SIZES.map((each) => html`<button type="button" key=${each} class="quiet small"
            aria-pressed=${size === each}
            onClick=${() => setQuery({ size: each === "medium" ? "" : each })}>${each}</button>`)}
        </fieldset>
        <button class="small quiet" aria-expanded=${showsAll.value}
          onClick=${() => { showsAll.value = !showsAll.value; }}>
          ${showsAll.value ? "Fewer methods" : `All ${all.length} methods`}</button>
      </div>
      ${methods.map((name) => methodNamed(name) && html`<details key=${name}>
        <summary>Settings of ${name}</summary>
        <${SettingsForm} settings=${methodNamed(name).settings} prefix=${`m.${name}.`}
          values=${{ ...sizes(name), ...draft.value.of[name] }} /></details>`)}
    </div>
  </section>`;
}

function Later() {
  const { length } = catalogue.value.methods;
  return html`<section class="part later"><h2><span class="step">2</span> Method</h2>
    <p class="soft">How to learn: LoRA, or one of ${length - 1} others, each with what it costs on
      these rows.</p></section>`;
}

function Card({ method, isChosen }) {
  const { methods } = draft.value;
  const others = methods.filter((name) => name !== method.name);
  const toggle = () => setMethods(isChosen ? others : [...methods, method.name]);
  return html`<label class="card ${isChosen ? "chosen" : ""}">
    <span class="row"><input type="checkbox" checked=${isChosen} onChange=${toggle} />
      <b>${method.name}</b></span>
    <span class="small-text soft">${method.summary}</span>
    <span class="small-text figures"><${Figures} method=${method} /></span>
  </label>`;
}

/** What a step cost where it was measured, and what becomes of the result. */
function Figures({ method }) {
  const { cost } = method;
  return html`${cost ? html`${count(cost.trained)} weights · ${cost.step} × LoRA’s time
      · ${cost.peak_gib} GiB` : "not measured yet"}
    ${!method.served && html`<br /><span class="warn">not served:
      the job ends in a download</span>`}
    ${method.extra && html`<br /><span class="warn">needs the extra “${method.extra}”</span>`}`;
}
