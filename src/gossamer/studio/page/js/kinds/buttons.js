// What can be done with a result beside asking it: prove it, and take it away.

import { post } from "../api.js";
import { html, useSignal } from "../html.js";
import { Problem } from "../parts/notes.js";
import { go } from "../router.js";

/** Buttons that start a proof or an export of the model of that name, each as a job. */
export function ProofAndExport({ model, name }) {
  const problem = useSignal(null);
  const isBusy = useSignal(false);

  async function start(path, body) {
    isBusy.value = true;
    problem.value = null;
    try {
      const job = await post(path, { model, ...body });
      go(`/jobs/${job.id}`);
    } catch (error) {
      problem.value = error;
    }
    isBusy.value = false;
  }

  const button = (label, says, path, body) => html`<button class="small" disabled=${isBusy.value}
    aria-label=${`${label} ${name}`} title=${says} onClick=${() => start(path, body)}>${label}
    </button>`;
  return html`${button("Verify", "Compare what is served with PEFT, token by token",
      "/studio/api/verifications", {})}
    ${button("Merge", "Make a whole model of it, to download", "/studio/api/exports",
      { format: "merged" })}
    ${button("As LoRA", "Make a plain LoRA adapter of it, to download", "/studio/api/exports",
      { format: "lora" })}
    <${Problem} error=${problem.value} />`;
}
