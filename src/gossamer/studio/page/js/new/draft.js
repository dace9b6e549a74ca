// The job that is being put together. It stands in the address, so it can be kept, sent and found
// again; nothing is started by opening an address.

import { catalogue, methodNamed, sizeOf, sizeSetting } from "../catalogue.js";
import { computed } from "../html.js";
import { session } from "../live.js";
import { query, setQuery } from "../router.js";

const DEFAULT_HELD_OUT = "0.1";

/** {file, held, methods, size, name, seeds, score, training: {}, of: {method: {}}}: texts as they
 * were typed. */
export const draft = computed(() => {
  const found = { training: {}, of: {} };
  const values = query.value;
  found.file = values.get("file");
  found.held = values.get("held") ?? DEFAULT_HELD_OUT;
  found.methods = (values.get("methods") ?? "lora").split(",").filter(Boolean);
  found.size = values.get("size") ?? "medium";
  found.name = values.get("name") ?? "";
  found.seeds = values.get("seeds") ?? "1";
  found.score = values.get("score") ?? "loss";
  for (const [key, value] of values) {
    if (key.startsWith("t.")) found.training[key.slice(2)] = value;
    const [, method, name] = key.match(/^m\.(\w+)\.(\w+)$/) ?? [];
    if (method) (found.of[method] ??= {})[name] = value;
  }
  return found;
});

export function setMethods(methods) {
  setQuery({ methods: methods.join(",") });
}

/** The body of POST /v1/fine_tuning/jobs for one of the methods. */
export function bodyFor(name, from = draft.value) {
  const body = { model: session.value?.model, training_file: from.file, seed: 0 };
  if (from.name.trim()) body.suffix = from.name.trim();
  body.method = { type: "supervised" };
  body.adapter = methodBody(name, from);
  body.training = {};
  if (from.held.startsWith("file-")) body.validation_file = from.held;
  else if (Number(from.held) > 0) body.training.eval_split = Number(from.held);
  Object.assign(body.training, trainingBody(from));
  return body;
}

/** The body of POST /studio/api/comparisons: one job of all methods that are ticked. */
export function comparisonBody(from = draft.value) {
  const body = { model: session.value?.model, training_file: from.file };
  if (from.name.trim()) body.suffix = from.name.trim();
  body.methods = from.methods.map((name) => methodBody(name, from));
  body.seeds = Array.from({ length: Number(from.seeds) || 1 }, (_, seed) => seed);
  if (from.held.startsWith("file-")) body.validation_file = from.held;
  else if (Number(from.held) > 0) body.held_out = Number(from.held);
  const { max_steps: steps, ...training } = trainingBody(from);
  if (steps) body.budget = [`steps=${steps}`];
  body.training = training;
  body.evaluation = { score: from.score };
  return body;
}

function methodBody(name, from) {
  return { method: name, ...sizes(name, from), ...typed(name, from) };
}

function trainingBody(from) {
  return Object.fromEntries(Object.entries(from.training).map(([key, text]) => (
    [key, valueOf(catalogue.value?.training.find((each) => each.name === key), text)])));
}

/** The setting that the chosen size gives a method. */
export function sizes(name, from = draft.value) {
  const method = methodNamed(name);
  if (!method || from.size === "medium" || sizeOf(method, from.size) === null) return {};
  return { [sizeSetting(method).name]: sizeOf(method, from.size) };
}

function typed(name, from) {
  const settings = methodNamed(name)?.settings ?? [];
  return Object.fromEntries(Object.entries(from.of[name] ?? {}).map(([key, text]) => (
    [key, valueOf(settings.find((each) => each.name === key), text)])));
}

/** A typed text as the value of a setting; what is no such value goes to the server as it is,
 * whose answer says what is wrong with it. */
export function valueOf(setting, text) {
  const type = setting?.type;
  if (type === "boolean") return text === "true";
  if (["integer", "number"].includes(type)) return text.trim() && !Number.isNaN(Number(text))
    ? Number(text) : text;
  if (["any", "array", "object"].includes(type) || !type) {
    try {
      return JSON.parse(text);
    } catch {
      if (type === "array" || text.includes(",")) return text.split(",").map((each) => {
        const part = each.trim().replace(/^\[|\]$/g, "");
        return part && !Number.isNaN(Number(part)) ? Number(part) : part;
      });
    }
  }
  return text;
}

/** The address in which a job like another one stands ready. */
export function queryOf(job) {
  const entries = job.comparison?.entries ?? [job.adapter ?? { method: "lora" }];
  const methods = entries.map(({ method }) => method).join(",");
  const values = { file: job.training_file, methods, name: job.suffix ?? "" };
  const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  for (const { method, ...settings } of entries) {
    const known = methodNamed(method)?.settings ?? [];
    for (const [key, value] of Object.entries(settings)) {
      const setting = known.find((each) => each.name === key);
      if (setting && !isSame(setting.default, value)) values[`m.${method}.${key}`] = plain(value);
    }
  }
  for (const [key, value] of Object.entries(job.training ?? {})) {
    const setting = catalogue.value?.training.find((each) => each.name === key);
    if (setting && key !== "eval_split" && !isSame(setting.default, value) && value !== null) {
      values[`t.${key}`] = plain(value);
    }
  }
  const split = job.comparison?.held_out ?? job.training?.eval_split ?? "";
  values.held = job.validation_file ?? String(split);
  if (job.comparison?.seeds.length > 1) values.seeds = String(job.comparison.seeds.length);
  return values;
}

export function isSame(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}
