// The runs of a comparison, which is one job, as runs like those of any other job.

import { get } from "../api.js";
import { columns } from "../curves.js";
import { useEffect, useMemo, useSignal } from "../html.js";

/** {base, runs} of a comparison, asked for as it goes on; null until it is known. */
export function useComparison(job) {
  const found = useSignal(null);
  const at = job && `${job.id} ${job.status} ${Math.floor((job.progress?.step ?? 0) / 10)}`;
  useEffect(() => {
    if (!job || job.kind !== "compare") return undefined;
    const stop = new AbortController();
    get(`/studio/api/comparisons/${job.id}`, { signal: stop.signal }).then((answer) => {
      found.value = answer;
    }, () => {
      // It is asked for at the next step.
    });
    return () => stop.abort();
  }, [at]);
  return found.value;
}

/** [{job, lines, figures}] of the comparisons among `chosen`, in the form of useRuns. */
export function useComparedRuns(chosen) {
  const comparisons = chosen.filter((job) => job.kind === "compare");
  const found = useSignal(new Map());
  const key = comparisons.map(({ id, status, progress }) => (
    `${id} ${status} ${Math.floor((progress?.step ?? 0) / 10)}`)).join();
  useEffect(() => {
    const stop = new AbortController();
    for (const { id } of comparisons) {
      get(`/studio/api/comparisons/${id}`, { signal: stop.signal }).then((answer) => {
        found.value = new Map(found.value).set(id, answer);
      }, () => {
        // It is asked for at the next step.
      });
    }
    return () => stop.abort();
  }, [key]);
  return useMemo(() => comparisons.flatMap((job) => {
    const answer = found.value.get(job.id);
    return (answer?.runs ?? []).map((run) => runOf(job, run, answer.base));
  }), [key, found.value]);
}

/** A run of a comparison in the form of the runs of other jobs. */
export function runOf(job, run, base) {
  const { figures, lines } = run;
  const several = job.comparison.seeds.length > 1 ? ` seed ${run.seed}` : "";
  return {
    job: {
      ...job,
      id: `${job.id}/${run.id}`,
      of: job.id,
      kind: "tune",
      alias: null,
      suffix: `${run.name}${several}`,
      adapter: run.adapter,
      seed: run.seed,
      status: run.status,
      fine_tuned_model: run.model,
      progress: { step: lines.at(-1)?.step ?? 0, steps: figures?.steps ?? job.progress?.steps },
      estimate: { trainable: figures?.trainable, memory: figures?.peak_memory },
    },
    lines,
    figures: {
      start: base?.loss ?? NaN,
      held: figures?.evaluation.loss ?? NaN,
      train: columns(lines).smooth.at(-1) ?? NaN,
      weights: figures?.trainable ?? NaN,
      memory: figures?.peak_memory ?? NaN,
      seconds: figures?.seconds ?? NaN,
    },
  };
}
