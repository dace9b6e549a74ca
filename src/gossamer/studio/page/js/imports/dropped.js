// What was dropped or chosen, as one zip: a zip as it is, a folder with the files of an adapter.

import { zip } from "./zip.js";

const CONFIG = "adapter_config.json";
const WEIGHTS = "adapter_model.safetensors";
const OTHERS = ["README.md", "run.yaml", "step_metrics.csv", "curve.png"];

/** The files of a drop, as [[path, file], ...], those of folders too. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => [file.name, file]);
  return (await Promise.all(entries.map((entry) => below(entry, 0)))).flat();
}

const MAX_DEPTH = 2;

async function below(entry, depth) {
  const path = entry.fullPath.replace(/^\//, "");
  if (entry.isFile) {
    return [[path, await new Promise((resolve, reject) => { entry.file(resolve, reject); })]];
  }
  if (depth > MAX_DEPTH) return [];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // It gives at most a hundred at a time, and none at the end.
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map((each) => below(each, depth + 1)))).flat();
}

/** What is to be sent: {name, file}. Throws an error that says what is missing. */
export async function asZip(files) {
  if (files.length === 1 && files[0][0].toLowerCase().endsWith(".zip")) {
    const [path, file] = files[0];
    return { name: nameOf(path.slice(0, -4)), file };
  }
  const config = files.map(([path]) => path).filter((path) => path.split("/").pop() === CONFIG)
    .sort((one, other) => one.split("/").length - other.split("/").length)[0];
  if (!config) {
    throw new Error(`There is no ${CONFIG} in it. Drop the folder of an adapter, or a zip of it.`);
  }
  const folder = config.slice(0, -CONFIG.length);
  const byPath = new Map(files);
  const has = (name) => byPath.has(folder + name);
  // Without safetensors whatever there is goes along: the server says what to do about it.
  const weights = has(WEIGHTS) ? WEIGHTS : "adapter_model.bin";
  const sent = [CONFIG, weights, ...OTHERS].filter(has);
  const packed = await zip(sent.map((name) => [name, byPath.get(folder + name)]));
  return { name: nameOf(folder.slice(0, -1)), file: new File([packed], "adapter.zip") };
}

/** A name that a model may have, made of the last part of a path. */
function nameOf(path) {
  const plain = path.split("/").pop().replace(/[^A-Za-z0-9._-]+/g, "-");
  return plain.replace(/^[^A-Za-z0-9]+/, "").slice(0, 64);
}
