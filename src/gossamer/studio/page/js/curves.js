// Lines of metrics as columns to draw, and what they say in words.

import { loss } from "./format.js";

/** So many values are averaged, but no more than a share of a short run. */
const [MOST_AVERAGED, SHARE_AVERAGED] = [30, 1 / 12];
/** By Azure's advice: held-out loss over training loss, above which a run learns by heart. */
const MILD = 1.2;
const SEVERE = 2;

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

/** What the curves say of the run in a sentence, and the step of its best evaluation. */
export function verdict(found) {
  const evals = evaluations(found);
  if (evals.length < 2) return { text: "", best: null };
  const best = evals.reduce((low, each) => (each.value < low.value ? each : low));
  const last = evals.at(-1);
  const ratio = last.value / (found.smooth.at(-1) ?? NaN);
  if (best.step !== last.step && last.value > best.value * 1.01) {
    const text = `The held-out loss has risen since step ${best.step}: what is learnt now helps
      the training rows only.`;
    return { best: best.step, tone: "warn", text };
  }
  if (ratio > SEVERE) {
    const text = `The held-out loss is ${ratio.toFixed(1)} times the training loss: the run learns
      its rows by heart.`;
    return { best: best.step, tone: "warn", text };
  }
  const mild = ratio > MILD ? " The gap to the training loss begins to open." : "";
  return { best: best.step, tone: "good", text: `The held-out loss still falls.${mild}` };
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
