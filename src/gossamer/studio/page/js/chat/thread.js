// The conversation: questions, and for each of them the answers of all columns.

import { events, send } from "../api.js";
import { batch, computed, signal } from "../html.js";
import { session } from "../live.js";
import { query, setQuery } from "../router.js";

export const MAX_COLUMNS = 8;

/** [{id, question, answers: {model: answer}, better}]; an answer is {text, state, told, error}. */
export const turns = signal([]);
export const isAnswering = signal(false);
let stop = null;

/** The models of the columns, as the address has them; the base alone where it has none. */
export const models = computed(() => {
  const named = (query.value.get("models") ?? "").split(",").filter(Boolean);
  if (named.length) return [...new Set(named)].slice(0, MAX_COLUMNS);
  return session.value ? [session.value.model] : [];
});

export function setModels(names) {
  setQuery({ models: [...new Set(names)].join(",") });
}

const NUMBERS = { temperature: 0, max_tokens: 200, seed: 0 };

/** How to sample: what the address has, else what gives the same answer every time. */
export const sampling = computed(() => Object.fromEntries(Object.entries(NUMBERS).map(
  ([name, usual]) => [name, Number(query.value.get(name) ?? usual)],
)));
export const system = computed(() => query.value.get("system") ?? "");

/** Asks all columns at once. */
export async function ask(question) {
  const turn = { id: crypto.randomUUID?.() ?? String(Date.now()), question, answers: {} };
  turns.value = [...turns.value, turn];
  await answer(turn.id, models.value);
}

/** Asks some columns of a turn, all in one batch; what they said there before is replaced. */
export async function answer(id, names) {
  const at = turns.value.findIndex((turn) => turn.id === id);
  stop = new AbortController();
  isAnswering.value = true;
  for (const name of names) change(id, name, () => ({ text: "", state: "waiting" }));
  const columns = names.map((model) => ({ model, messages: messagesFor(model, at) }));
  try {
    const body = { columns, ...sampling.value };
    const response = await send("POST", "/studio/api/ask", body, { signal: stop.signal });
    for await (const { data } of events(response)) take(id, names[data.column], data);
  } catch (error) {
    const ended = stop.signal.aborted ? { state: "stopped" }
      : { state: "failed", error: error.message };
    for (const name of names) {
      change(id, name, (old) => (["waiting", "answering"].includes(old.state)
        ? { ...old, ...ended } : old));
    }
  }
  isAnswering.value = false;
}

export function stopAnswering() {
  stop?.abort();
}

/** What a model has been asked and has said itself up to a turn. */
function messagesFor(model, at) {
  const messages = system.value ? [{ role: "system", content: system.value }] : [];
  for (const turn of turns.value.slice(0, at)) {
    const said = turn.answers[model];
    if (!said?.text) continue;
    messages.push({ role: "user", content: turn.question });
    messages.push({ role: "assistant", content: said.text });
  }
  return [...messages, { role: "user", content: turns.value[at].question }];
}

function take(id, name, data) {
  if (data.delta) {
    change(id, name, (old) => ({ ...old, state: "answering", text: old.text + data.delta }));
  } else if (data.done) {
    change(id, name, (old) => ({ ...old, state: "done", told: data.done }));
  } else if (data.error) {
    change(id, name, (old) => ({ ...old, state: "failed", error: data.error.message }));
  }
}

function change(id, name, next) {
  turns.value = turns.value.map((turn) => (turn.id === id
    ? { ...turn, answers: { ...turn.answers, [name]: next(turn.answers[name] ?? {}) } } : turn));
}

export function setBetter(id, name) {
  turns.value = turns.value.map((turn) => (turn.id === id
    ? { ...turn, better: turn.better === name ? null : name } : turn));
}

/** How often each model was found better. */
export const wins = computed(() => {
  const found = new Map();
  for (const { better } of turns.value) if (better) found.set(better, (found.get(better) ?? 0) + 1);
  return found;
});

export function begin(saved = []) {
  stopAnswering();
  batch(() => { turns.value = saved; });
}
