// Runs that differ in their seed alone are one point: their mean, and how far they are apart.

import { isSame } from "../new/draft.js";
import { nameOf } from "../parts/job_words.js";

const FIGURES = ["held", "weights", "memory", "seconds"];

/** [{id, name, runs, figures, low, high}]: `figures` are means, `low` and `high` the held-out loss
 * of the best and of the worst seed. */
export function groupsOf(runs) {
  const groups = [];
  for (const run of runs) {
    const alike = groups.find(({ runs: [first] }) => isAlike(first.job, run.job));
    if (alike) alike.runs.push(run);
    else groups.push({ runs: [run] });
  }
  return groups.map(({ runs: members }) => {
    const held = members.map(({ figures }) => figures.held);
    return {
      id: members[0].job.id, runs: members, name: nameFor(members),
      figures: Object.fromEntries(FIGURES.map((name) => (
        [name, mean(members.map(({ figures }) => figures[name]))]))),
      low: Math.min(...held), high: Math.max(...held),
    };
  });
}

function isAlike(one, other) {
  const kept = ({ adapter, training, training_file: rows, validation_file: held, model }) => (
    [adapter, training, rows, held, model]);
  return one.seed !== other.seed && isSame(kept(one), kept(other));
}

function nameFor(members) {
  const name = nameOf(members[0].job);
  return members.length > 1 ? `${name} (${members.length} seeds)` : name;
}

function mean(values) {
  return values.reduce((sum, each) => sum + each, 0) / values.length;
}
