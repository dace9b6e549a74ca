// A form for settings of the catalogue: a fitting field for each, its bounds, its sentence.

import { html } from "../html.js";
import { setQuery } from "../router.js";
import { isSame, valueOf } from "./draft.js";

/** Fields for `settings`; typed values stand in the address under `prefix` and the name. */
export function SettingsForm({ settings, values, prefix }) {
  return html`<div class="settings">${settings.map((setting) => html`<${Setting}
    key=${setting.name} setting=${setting} text=${values[setting.name]}
    id=${`${prefix}${setting.name}`} />`)}</div>`;
}

function Setting({ setting, text, id }) {
  const isChanged = text !== undefined;
  const set = (value) => {
    const isDefault = value === "" || isSame(valueOf(setting, value), setting.default);
    setQuery({ [id]: isDefault ? "" : value });
  };
  return html`<div class="setting ${isChanged ? "changed" : ""}">
    <div class="row"><label for=${id}><code>${setting.name}</code></label>
      ${isChanged && html`<button class="quiet small" onClick=${() => setQuery({ [id]: "" })}
        aria-label=${`Default for ${setting.name}`}>default</button>`}</div>
    <${Control} id=${id} setting=${setting} text=${text} set=${set} />
    <p class="soft small-text" id=${`${id}-says`}>${setting.sentence}</p>
  </div>`;
}

function Control({ id, setting, text, set }) {
  const shown = text ?? plain(setting.default);
  const onChange = ({ target }) => set(target.value);
  const common = { id, "aria-describedby": `${id}-says`, onChange };
  if (setting.type === "boolean") {
    return html`<input ...${common} type="checkbox" checked=${shown === "true"}
      onChange=${({ target }) => set(String(target.checked))} />`;
  }
  if (setting.type === "choice") {
    return html`<select ...${common} value=${shown}>
      ${setting.choices.map((each) => html`<option key=${each}>${each}</option>`)}</select>`;
  }
  if (["integer", "number"].includes(setting.type)) {
    return html`<input ...${common} type="number" value=${shown} min=${setting.minimum}
      max=${setting.maximum} step=${setting.type === "integer" ? 1 : "any"}
      placeholder=${setting.optional ? "unset" : ""} />`;
  }
  return html`<input ...${common} type="text" value=${shown} spellcheck="false"
    placeholder=${setting.optional ? "unset" : ""} />`;
}

function plain(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
