// Questions from the rows that a chosen adapter was judged by, each asked by one click.

import { get } from "../api.js";
import { html, useEffect, useSignal } from "../html.js";
import { jobList } from "../live.js";
import { nameOf } from "../parts/job_words.js";
import { ask, models } from "./thread.js";

const MOST = 4;
/** Marks of chat templates; what stands between the last two is what was asked. */
const MARK = /<\|?[\w/]+\|?>|\[\/?INST\]/;
const ROLE = /^(system|user|assistant)\b\s*/;

export function Prompts() {
  const found = useSignal([]);
  const job = jobList.value.find(({ alias, fine_tuned_model: made }) => (
    models.value.some((name) => name && [alias, made].includes(name))));
  useEffect(() => {
    found.value = [];
    if (!job) return;
    get(`/v1/fine_tuning/jobs/${job.id}/samples`).then(({ prompts }) => {
      const texts = prompts.map(({ prompt }) => questionOf(prompt)).filter(Boolean);
      found.value = [...new Set(texts)].slice(0, MOST);
    }, () => {}); // A job that is gone has no questions to offer.
  }, [job?.id]);

  if (!found.value.length) return null;
  return html`<div class="stack tight"><h2>From the held-out rows of ${nameOf(job)}</h2>
    <div class="row">${found.value.map((text) => html`<button key=${text} class="small prompt"
      onClick=${() => ask(text)}>${text}</button>`)}</div></div>`;
}

/** What was asked last in a prompt as the model sees it. */
function questionOf(prompt) {
  const parts = prompt.split(MARK).map((part) => part.trim().replace(ROLE, "").trim());
  return parts.filter(Boolean).at(-1) ?? "";
}
