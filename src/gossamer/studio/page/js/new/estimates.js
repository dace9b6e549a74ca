// What the server says a job would cost, by its own trial run of everything but the steps.

import { post } from "../api.js";
import { catalogue } from "../catalogue.js";
import { effect, signal } from "../html.js";
import { session } from "../live.js";
import { bodyFor, draft } from "./draft.js";

const TRIAL = "/v1/fine_tuning/jobs?dry_run=true";
const WAIT_MS = 500;

/** Body as text: {isAsked}, {estimate} or {problem}. */
const known = signal(new Map());

const keyOf = (name) => JSON.stringify({ ...bodyFor(name), suffix: undefined });

/** What is known of the cost of a method with the settings of the draft; null: nothing. */
export function estimateOf(name) {
  return draft.value.file ? known.value.get(keyOf(name)) ?? null : null;
}

/** Asks for the estimates of the chosen methods, one after the other, whenever the draft changes.
 * Gives the function that ends it. */
export function keepEstimating() {
  let stop = null;
  let timer = null;
  const dispose = effect(() => {
    const wanted = draft.value.methods;
    stop?.abort();
    clearTimeout(timer);
    if (!draft.value.file || !catalogue.value || !session.value) return;
    stop = new AbortController();
    const { signal: ended } = stop;
    timer = setTimeout(() => askAll(wanted, ended), WAIT_MS);
  });
  return () => {
    stop?.abort();
    clearTimeout(timer);
    dispose();
  };
}

async function askAll(names, stop) {
  for (const name of names) {
    if (stop.aborted) return;
    const key = keyOf(name);
    const found = known.peek().get(key);
    if (found?.estimate || found?.problem) continue;
    set(key, { isAsked: true });
    try {
      const answer = await post(TRIAL, bodyFor(name), { signal: stop });
      set(key, { estimate: answer.estimate ?? answer });
    } catch (error) {
      if (stop.aborted) set(key, null);
      else set(key, { problem: error.message });
    }
  }
}

function set(key, value) {
  const next = new Map(known.peek());
  if (value) next.set(key, value);
  else next.delete(key);
  known.value = next;
}
