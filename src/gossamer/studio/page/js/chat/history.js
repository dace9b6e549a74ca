// Earlier conversations. They stay in this browser and are sent to no one.

const STORE = "chats";
const KEPT = 100;

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("gossamer-studio", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, work) {
  const store = (await database()).transaction(STORE, mode).objectStore(STORE);
  return new Promise((resolve, reject) => {
    const request = work(store);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** All that is kept, the newest first: [{id, time, models, turns}]. */
export async function earlier() {
  const all = await run("readonly", (store) => store.getAll());
  return all.sort((one, other) => other.time - one.time);
}

export async function keep(chat) {
  await run("readwrite", (store) => store.put(chat));
  for (const old of (await earlier()).slice(KEPT)) await forget(old.id);
}

export function forget(id) {
  return run("readwrite", (store) => store.delete(id));
}

/** A conversation as a file for other programs: one JSON line for each answer. */
export function exported({ turns }) {
  const lines = turns.flatMap(({ question, answers, better }) => (
    Object.entries(answers).map(([model, { text: answer }]) => (
      JSON.stringify({ question, model, answer, better: better === model })))));
  return new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" });
}
