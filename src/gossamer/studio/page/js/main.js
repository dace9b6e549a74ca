// Starts the page: signs in, listens, and shows the view of the address.

import { needsSignIn, post } from "./api.js";
import { effect, html, render, signal, useEffect } from "./html.js";
import { jobList, restart, start } from "./live.js";
import { nameOf, share } from "./parts/job_words.js";
import { listen, match, path } from "./router.js";
import { Shell } from "./shell.js";

// Views are loaded when they are first opened.
/** @type {[string, () => Promise<any>][]} */
const VIEWS = [
  ["/", () => import("./views/jobs.js")],
  ["/new", () => import("./views/new.js")],
  ["/jobs/:id", () => import("./views/job.js")],
  ["/chat", () => import("./views/chat.js")],
  ["/adapters", () => import("./views/adapters.js")],
  ["/compare", () => import("./views/compare.js")],
  ["/data", () => import("./views/data.js")],
  ["/server", () => import("./views/server.js")],
  ["/keys", () => import("./views/keys.js")],
];
const TITLE = "Tune Studio";

/** What is shown: {View, values, title}, or {problem}. */
const shown = signal(null);

async function open(at) {
  const [load, values] = find(at) ?? [() => import("./views/missing.js"), {}];
  try {
    const { View, title } = await load();
    // Another view was opened meanwhile, or the server has asked who is there.
    if (path.peek() !== at || needsSignIn.peek()) return;
    shown.value = { View, values, title, at };
  } catch {
    shown.value = { problem: "This part of the page could not be loaded. Load the page again." };
  }
}

/** @returns {[() => Promise<any>, Record<string, string>] | null} */
function find(at) {
  for (const [pattern, load] of VIEWS) {
    const values = match(pattern, at);
    if (values) return [load, values];
  }
  return null;
}

function App() {
  const view = shown.value;
  useEffect(() => {
    // A person who listens instead of looking hears where they are.
    if (isFirst) isFirst = false;
    else document.querySelector("h1")?.focus({ preventScroll: true });
  }, [view]);
  if (!view) return html`<${Shell} />`;
  if (view.problem) return html`<${Shell}><p class="bad">${view.problem}</p><//>`;
  return html`<${Shell}><${view.View} key=${view.at} ...${view.values} /><//>`;
}

let isFirst = true;

function setTitle() {
  const running = jobList.value.find((job) => job.status === "running");
  const lead = running && share(running) !== null && `${share(running)} % ${nameOf(running)}`;
  document.title = [lead, shown.value?.title, TITLE].filter(Boolean).join(" · ");
}

/** Trades the token that the command line printed for a session. It stands behind the #, which is
 * sent to no server, and is taken out of the address at once. */
async function signInByToken() {
  const token = new URLSearchParams(window.location.hash.slice(1)).get("token");
  if (!token) return;
  window.history.replaceState(null, "", window.location.pathname + window.location.search);
  await post("/studio/session", { token }).catch(() => {
    // A token works once; with a session from before, the page works all the same.
  });
}

async function begin() {
  listen();
  await signInByToken();
  effect(() => {
    if (!needsSignIn.value) open(path.value);
    else import("./views/sign_in.js").then(({ View, title }) => {
      shown.value = { View, values: { done }, title, at: "sign-in" };
    });
  });
  effect(setTitle);
  render(html`<${App} />`, document.getElementById("app"));
  start();
  document.addEventListener("keydown", firstKeys);
}

const pressed = [];

/** Loads what listens to keys when a person first uses one; those until then are not lost. */
async function firstKeys(event) {
  pressed.push(event);
  if (pressed.length > 1) return;
  const { listenToKeys } = await import("./keyboard.js");
  document.removeEventListener("keydown", firstKeys);
  listenToKeys(pressed);
}

function done() {
  needsSignIn.value = false;
  restart();
}

begin();
