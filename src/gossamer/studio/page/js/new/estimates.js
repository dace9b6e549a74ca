// What the server says a job would cost, by its own trial run of everything but the steps.

import { post } from "../api.js";
import { catalogue } from "../catalogue.js";
import { effect, signal } from "../html.js";
import { session } from "../live.js";
import { bodyFor, comparisonBody, draft } from "./draft.js";

const JOBS = "/v1/fine_tuning/jobs";
const COMPARISONS = "/studio/api/comparisons";
const WAIT_MS = 500;

/** Question as text: {isAsked}, {estimate} or {problem}. */
const known = signal(new Map());

/** What is asked: a run of the one method that is ticked, or all runs of a comparison.
 * @returns {[string, Record<string, any>]} */
function question() {
  const { methods } = draft.value;
  return methods.length > 1 ? [COMPARISONS, comparisonBody()] : [JOBS, bodyFor(methods[0])];
}

const keyOf = ([path, body]) => JSON.stringify([path, { ...body, suffix: undefined }]);

/** What is known of the cost of the job of the draft; null: nothing. */
export function estimateNow() {
  const { file, methods } = draft.value;
  return file && methods.length ? known.value.get(keyOf(question())) ?? null : null;
}

/** Asks for the estimate of the draft whenever that changes. Gives the function that ends it. */
export function keepEstimating() {
  let stop = null;
  let timer = null;
  const dispose = effect(() => {
    const { file, methods } = draft.value;
    stop?.abort();
    clearTimeout(timer);
    if (!file || !methods.length || !catalogue.value || !session.value) return;
    stop = new AbortController();
    const { signal: ended } = stop;
    timer = setTimeout(() => ask(question(), ended), WAIT_MS);
  });
  return () => {
    stop?.abort();
    clearTimeout(timer);
    dispose();
  };
}

async function ask(asked, stop) {
  const [path, body] = asked;
  const key = keyOf(asked);
  const found = known.peek().get(key);
  if (found?.estimate || found?.problem) return;
  set(key, { isAsked: true });
  try {
    const answer = await post(`${path}?dry_run=true`, body, { signal: stop });
    set(key, { estimate: answer.estimate ?? {} });
  } catch (error) {
    if (stop.aborted) set(key, null);
    else set(key, { problem: error.message });
  }
}

function set(key, value) {
  const next = new Map(known.peek());
  if (value) next.set(key, value);
  else next.delete(key);
  known.value = next;
}
