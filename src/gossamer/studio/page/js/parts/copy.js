// A button that copies a text, and says so where the browser allows no copying.

import { html, useSignal } from "../html.js";

export function CopyButton({ text, label = "Copy", quiet = false }) {
  const said = useSignal(null);
  if (!navigator.clipboard) return null; // Only over https and on this machine.

  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      said.value = "Copied";
    } catch {
      said.value = "The browser did not allow it";
    }
    setTimeout(() => { said.value = null; }, 2000);
  }

  return html`<button class=${quiet ? "small quiet" : "small"} onClick=${copy}>
    <span aria-live="polite">${said.value ?? label}</span></button>`;
}
