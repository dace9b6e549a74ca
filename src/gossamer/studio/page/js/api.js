// Calls to the server, and what it answers when it refuses: a sentence, a code, a field.

import { signal } from "./html.js";

/** Whether the server wants to know who calls: true shows the page to sign in. */
export const needsSignIn = signal(false);

/** An error of the API. Its message is a sentence for people and is shown as it is. */
export class ApiProblem extends Error {
  constructor(status, { message, code = null, param = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

class ServerGone extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);
export const put = (path, body, options) => call("PUT", path, body, options);
export const del = (path, options) => call("DELETE", path, undefined, options);

async function call(method, path, body, options = {}) {
  const response = await send(method, path, body, options);
  return response.status === 204 ? null : response.json();
}

/** Sends a call; gives the response if it is a good one, else throws what it says.
 * @param {{signal?: AbortSignal, headers?: Record<string, string>}} [options] */
export async function send(method, path, body, options = {}) {
  const { signal: stop, headers = {} } = options;
  const init = { method, headers: { Accept: "application/json", ...headers }, signal: stop };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (stop?.aborted) throw error;
    throw new ServerGone();
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

/** Reads the error of a response; one that must sign in is shown where to. */
async function problemOf(response) {
  if (response.status === 401) needsSignIn.value = true;
  let told = null;
  try {
    told = (await response.json()).error;
  } catch {
    // A proxy's page, or a connection that broke: the status is all there is.
  }
  const message = `The server answered ${response.status} and gave no reason.`;
  return new ApiProblem(response.status, told ?? { message });
}

/** Reads a stream of server-sent events: yields {event, data, id} until it ends. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const read = parseBlock(block);
        if (read) yield read;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseBlock(block) {
  const found = { event: "message", id: null, data: [] };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("data:")) found.data.push(value);
    else found[line.slice(0, colon)] = value;
  }
  if (!found.data.length) return null;
  return { event: found.event, id: found.id, data: JSON.parse(found.data.join("\n")) };
}

/** Sends a file and texts as a form, with its progress (fetch tells none): gives the answer;
 * `stop` ends it. */
export function sendForm(path, texts, file, { onProgress, stop }) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const [name, text] of Object.entries(texts)) form.append(name, text);
    form.append("file", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.onload = () => {
      if (request.status < 300) resolve(request.response);
      else {
        if (request.status === 401) needsSignIn.value = true;
        const message = `The server answered ${request.status} and gave no reason.`;
        reject(new ApiProblem(request.status, request.response?.error ?? { message }));
      }
    };
    request.onerror = () => reject(new ServerGone());
    request.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    stop?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
