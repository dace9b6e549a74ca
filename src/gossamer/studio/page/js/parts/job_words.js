// How jobs are spoken of in more than one view.

const FORMATS = { merged: "merged into its base model", lora: "as plain LoRA" };

/** "dora, rank 8": the method and the one number that people ask for. */
export function methodOf(job) {
  if (job.kind === "compare") {
    const { methods, seeds } = job.comparison;
    return `${methods.length} methods${seeds.length > 1 ? `, ${seeds.length} seeds` : ""}`;
  }
  if (job.kind === "verify") return "token by token against PEFT";
  if (job.kind === "export") return FORMATS[job.format] ?? job.format;
  const { method = "lora", rank, width, tokens } = job.adapter ?? {};
  const size = rank ? `rank ${rank}` : width ? `width ${width}` : tokens ? `${tokens} tokens` : "";
  return [method, size].filter(Boolean).join(", ");
}

/** What a person calls a job: its name, else the end of its id. */
export function nameOf(job) {
  if (job.target) {
    return `${job.kind === "verify" ? "Proof" : "Export"} of ${shortName(job.target)}`;
  }
  return job.alias || job.suffix || (job.kind === "compare" ? "comparison" : job.id.slice(-6));
}

/** How far a job is in whole percent; null before its first step is known. */
export function share(job) {
  const { step, steps } = job.progress ?? {};
  return steps ? Math.floor((100 * (step ?? 0)) / steps) : null;
}

/** The address of a talk with what a job made, beside its base model. */
export function chatWith(job) {
  const tuned = job.alias || job.fine_tuned_model;
  return `/chat?models=${encodeURIComponent(`${job.model},${tuned}`)}`;
}

/** A model's name as people say it: of `ft:base:tenant:pirate:aBcD1234`, "pirate aBcD". */
export function shortName(model) {
  return model.split("+").map((part) => {
    const [ft, , , suffix, id, ...rest] = part.split(":");
    if (ft !== "ft" || !id) return part;
    const step = rest[0]?.startsWith("ckpt-step-") ? ` at step ${rest.shift().slice(10)}` : "";
    const weight = rest.length ? ` × ${rest[0]}` : "";
    return `${suffix || "unnamed"} ${id.slice(0, 4)}${step}${weight}`;
  }).join(" + ");
}
