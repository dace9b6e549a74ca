// The runs that are compared, with the lines of their metrics and the figures of the table.

import { columns, evaluations } from "../curves.js";
import { useEffect, useMemo } from "../html.js";
import { follow, topic } from "../live.js";

/** [{job, lines, figures}] for some jobs; follows their metrics while the view is open. */
export function useRuns(chosen) {
  const ids = chosen.map(({ id }) => id).join();
  useEffect(() => {
    const ends = chosen.map(({ id }) => follow(`job:${id}`));
    return () => ends.forEach((end) => end());
  }, [ids]);
  const lines = chosen.map(({ id }) => topic(`job:${id}`).value);
  return useMemo(() => chosen.map((job, index) => (
    { job, lines: lines[index], figures: figuresOf(job, lines[index]) }
  )), [ids, ...lines]);
}

/** What a run learnt and what it cost; NaN for what was not measured. */
function figuresOf(job, lines) {
  const evals = evaluations(columns(lines));
  const steps = (lines ?? []).filter((line) => Number.isFinite(line.loss));
  const seconds = steps.reduce((sum, line) => sum + (line.seconds ?? 0), 0);
  return {
    start: evals[0]?.value ?? NaN,
    held: evals.length ? Math.min(...evals.map(({ value }) => value)) : NaN,
    train: columns(lines).smooth.at(-1) ?? NaN,
    weights: job.estimate?.trainable ?? NaN,
    memory: job.estimate?.memory ?? NaN,
    seconds: steps.length ? seconds : NaN,
  };
}
