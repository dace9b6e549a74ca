// The same job by other means: curl, Python with OpenAI's client, and the command line.

import { html, useSignal } from "../html.js";
import { CopyButton } from "../parts/copy.js";
import { bodyFor, comparisonBody, draft } from "./draft.js";

const JOBS = "/v1/fine_tuning/jobs";
const COMPARISONS = "/studio/api/comparisons";
const KINDS = [["curl", "curl"], ["python", "Python"], ["cli", "Command line"]];

export function Commands({ filename }) {
  const kind = useSignal("curl");
  const isOne = draft.value.methods.length < 2;
  const writers = isOne ? { curl, python, cli } : { curl, python: pythonOf, cli: compare };
  const [path, body] = isOne ? [JOBS, bodyFor(draft.value.methods[0] ?? "lora")]
    : [COMPARISONS, comparisonBody()];
  const text = writers[kind.value](body, filename, path);
  return html`<details><summary>The same by curl, Python or the command line</summary>
    <div class="stack tight">
      <div class="row spread"><div class="row" role="group" aria-label="Language">
        ${KINDS.map(([value, name]) => html`<button key=${value} class="quiet small"
          aria-pressed=${kind.value === value} onClick=${() => { kind.value = value; }}>
          ${name}</button>`)}</div>
        <${CopyButton} text=${text} /></div>
      <pre class="code" tabindex="0">${text}</pre>
    </div></details>`;
}

function curl(body, _, path) {
  return `curl ${window.location.origin}${path} \\
  -H 'Content-Type: application/json' \\
  -d '${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`;
}

function python(body) {
  const { adapter, training, ...plain } = body;
  const lines = Object.entries(plain).map(([key, value]) => `    ${key}=${literal(value)},`);
  return `from openai import OpenAI

client = OpenAI(base_url="${window.location.origin}/v1", api_key="none")
job = client.fine_tuning.jobs.create(
${lines.join("\n")}
    extra_body=${literal({ adapter, training })},
)`;
}

function pythonOf(body, _, path) {
  return `import httpx

job = httpx.post("${window.location.origin}${path}", json=${literal(body)}).json()`;
}

/** A value as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const pair = ([key, each]) => `${JSON.stringify(key)}: ${literal(each)}`;
  return `{${Object.entries(value).map(pair).join(", ")}}`;
}

function cli(body, filename) {
  const { method, ...settings } = body.adapter;
  const parts = [`gossamer tune ${quoted(body.model ?? "MODEL")}`, `--data ${quoted(filename)}`,
    `--method ${method}`];
  if (body.validation_file) parts.push("--set eval_data=HELD-OUT.jsonl");
  for (const [key, value] of Object.entries({ ...settings, ...body.training })) {
    parts.push(`--set ${quoted(`${key}=${plain(value)}`)}`);
  }
  parts.push(`--output ${quoted(`runs/${body.suffix || method}`)}`);
  return parts.join(" \\\n  ");
}

function compare(body, filename) {
  const parts = [`gossamer compare ${quoted(body.model ?? "MODEL")}`,
    `--data ${quoted(filename)}`, "--eval HELD-OUT.jsonl"];
  const methods = body.methods.map(({ method, ...settings }) => {
    const given = Object.entries(settings).map(([key, value]) => `${key}=${plain(value)}`);
    return quoted(given.length ? `${method}:${given.join(",")}` : method);
  });
  parts.push(`--methods ${methods.join(" ")}`, `--seeds ${body.seeds.join(" ")}`);
  if (body.budget) parts.push(`--budget ${body.budget.join(" ")}`);
  parts.push(`--score ${body.evaluation.score}`);
  for (const [key, value] of Object.entries(body.training)) {
    parts.push(`--set ${quoted(`${key}=${plain(value)}`)}`);
  }
  parts.push(`--output ${quoted(`comparisons/${body.suffix || "first"}`)}`);
  return parts.join(" \\\n  ");
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function quoted(text) {
  return /^[\w./=:@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
