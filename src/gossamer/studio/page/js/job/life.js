// What has happened to a job, step by step of its life; the steps of its training are in the curve.

import { get } from "../api.js";
import { useEffect, useSignal } from "../html.js";

const PAGE = 500;

/** {told, hasMore, problem, older}: the events of a job, the newest first. They are asked for again
 * when something has changed that they may tell of. */
export function useLife(job) {
  const told = useSignal(null);
  const hasMore = useSignal(false);
  const problem = useSignal(null);

  async function load(after) {
    const cursor = after ? `&after=${encodeURIComponent(after)}` : "";
    const path = `/v1/fine_tuning/jobs/${job.id}/events?type=message&limit=${PAGE}${cursor}`;
    try {
      const answer = await get(path);
      told.value = after ? [...told.value, ...answer.data] : answer.data;
      hasMore.value = answer.has_more;
    } catch (error) {
      problem.value = error;
    }
  }
  const changes = [job.status, job.progress?.reason, Math.floor((job.progress?.step ?? 0) / 25)];
  useEffect(() => { load(); }, [job.id, ...changes]);
  return { told: told.value ?? [], hasMore: hasMore.value, problem: problem.value,
    older: () => load(told.value.at(-1).id) };
}

/** The steps at which a job has saved, and those from which it went on after a break. */
export function savedAndResumed(told) {
  const steps = (begin) => told.filter(({ message, data }) => (
    message.startsWith(begin) && data?.step > 0)).map(({ data }) => data.step);
  return { saved: steps("Checkpoint created"), resumed: steps("Resumed from") };
}
