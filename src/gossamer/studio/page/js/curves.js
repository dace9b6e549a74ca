// Lines of metrics as columns to draw, and what they say in words.

import { loss } from "./format.js";

/** So many values are averaged, but no more than a share of a short run. */
const [MOST_AVERAGED, SHARE_AVERAGED] = [30, 1 / 12];
/** By Azure's advice: held-out loss over training loss, above which a run learns by heart. */
const MILD = 1.2;
const SEVERE = 2;
/** A loss that is so much higher than the lowest has risen, and does not just tremble. */
const RISEN = 1.01;

/** {xs, train, smooth, valid, steps, evals}: one entry a step, null where nothing was measured. */
export function columns(lines, axis = "step") {
  const byStep = new Map();
  let tokens = 0;
  let passed = 0;
  for (const line of lines ?? []) {
    if (!Number.isFinite(line.loss) && !Number.isFinite(line.eval_loss)) continue;
    if (Number.isFinite(line.loss)) {
      tokens += line.tokens ?? 0;
      passed += line.seconds ?? 0;
    }
    const known = byStep.get(line.step) ?? {};
    byStep.set(line.step, { ...known, ...line, x: { step: line.step, tokens, seconds: passed } });
  }
  const rows = [...byStep.values()].sort((one, other) => one.step - other.step);
  const train = rows.map((row) => row.loss ?? null);
  return {
    xs: rows.map((row) => row.x[axis]),
    steps: rows.map((row) => row.step),
    train,
    smooth: smoothed(train),
    valid: rows.map((row) => row.eval_loss ?? null),
  };
}

/** Moving average that starts without a bias to zero. */
export function smoothed(values) {
  const averaged = Math.min(MOST_AVERAGED, Math.max(2, values.length * SHARE_AVERAGED));
  const keep = 1 - 1 / averaged;
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return weight ? sum / weight : null;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

/** The evaluations in order: [{step, value}]. */
export function evaluations({ steps, valid }) {
  return steps.map((step, index) => ({ step, value: valid[index] }))
    .filter(({ value }) => value !== null);
}

/** What the curves say of the run in words, and the step of its best evaluation; `saved` are the
 * steps whose checkpoints are kept. `rose`: the loss was lower before. */
export function verdict(found, saved = []) {
  const evals = evaluations(found);
  if (evals.length < 2) return { text: "", best: null };
  const best = evals.reduce((low, each) => (each.value < low.value ? each : low));
  const last = evals.at(-1);
  const rose = best.step !== last.step && last.value > best.value * RISEN;
  const ratio = last.value / (found.smooth.at(-1) ?? NaN);
  const what = saved.includes(best.step) ? "checkpoint" : "step";
  const course = rose
    ? `The held-out loss rose since step ${best.step}: ${what} ${best.step} is the best.`
    : "The held-out loss still falls.";
  const isWell = !rose && !(ratio > MILD);
  return { best: best.step, rose, tone: isWell ? "good" : "warn", text: course + gap(ratio) };
}

/** How far the held-out loss is from the training loss, and what that means. */
function gap(ratio) {
  if (!Number.isFinite(ratio)) return "";
  const times = ` It is ${ratio.toFixed(ratio < 10 ? 2 : 0)} times the training loss:`;
  if (ratio > SEVERE) return `${times} the run learns its rows by heart.`;
  if (ratio > MILD) return `${times} the run begins to learn its rows by heart.`;
  return `${times} what is learnt holds for other rows too.`;
}

/** What a person who cannot see the picture hears. */
export function summary(found) {
  if (!found.xs.length) return "No step has been measured yet.";
  const evals = evaluations(found);
  const held = evals.length
    ? ` Held-out loss from ${loss(evals[0].value)} to ${loss(evals.at(-1).value)}.` : "";
  const first = found.smooth.find((value) => value !== null);
  return `Training loss from ${loss(first)} to ${loss(found.smooth.at(-1))} over
    ${found.steps.at(-1)} steps.${held}`.replace(/\s+/g, " ");
}
