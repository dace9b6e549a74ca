// One stream of news for all tabs of the browser, and the state that it keeps up to date.
//
// Browsers open few connections to one server, so one tab holds the stream (the one that has the
// lock) and passes everything on to the others. Without locks (plain http from another machine)
// every tab has its own and gives it up while it is hidden.

import { events, send } from "./api.js";
import { batch, computed, signal } from "./html.js";

/** "connecting", "live" or "lost". */
export const connection = signal("connecting");
/** Who is signed in and which model is served; null until the server has said so. */
export const session = signal(null);
/** The jobs by id, newest first; null until the first news. */
export const jobs = signal(null);
/** What a topic last said: "adapters", "server", "job:ID". */
const topics = new Map();

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
const canLead = "locks" in navigator && "BroadcastChannel" in window;
const channel = canLead ? new BroadcastChannel("gossamer-live") : null;
const me = crypto.getRandomValues(new Uint32Array(2)).join("-");
const wantedByTab = new Map([[me, new Set(["jobs"])]]);
let isLeader = !canLead;
let attempt = null;

export const jobList = computed(() => [...(jobs.value?.values() ?? [])]);

/** A signal with the newest news of a topic; null before any. */
export function topic(name) {
  if (!topics.has(name)) topics.set(name, signal(null));
  return topics.get(name);
}

/** Asks for news of a topic until the function that this gives is called. */
export function follow(name) {
  wantedByTab.get(me).add(name);
  tellWanted();
  return () => {
    // The stream goes on as it is: news that no tab wants any more end with the next start.
    wantedByTab.get(me).delete(name);
    if (!isLeader) tellWanted();
  };
}

function tellWanted() {
  if (isLeader) restart();
  else channel.postMessage({ tab: me, wanted: [...wantedByTab.get(me)] });
}

function wanted() {
  return [...new Set([...wantedByTab.values()].flatMap((names) => [...names]))].sort();
}

/** Starts to listen; call once. */
export function start() {
  if (!canLead) {
    document.addEventListener("visibilitychange", restart);
    restart();
    return;
  }
  channel.onmessage = ({ data }) => hear(data);
  window.addEventListener("pagehide", () => channel.postMessage({ tab: me, wanted: [] }));
  navigator.locks.request("gossamer-live", () => {
    isLeader = true;
    restart();
    return new Promise(() => {}); // Held until the tab is closed.
  });
  tellWanted();
}

function hear(message) {
  if (message.news && !isLeader) take(message.news);
  if (message.connection && !isLeader) connection.value = message.connection;
  if (!message.wanted || !isLeader) return;
  const known = new Set(wanted());
  if (message.wanted.length) wantedByTab.set(message.tab, new Set(message.wanted));
  else wantedByTab.delete(message.tab);
  if (message.wanted.some((name) => !known.has(name))) restart();
  else if (message.wanted.length) repeatAll();
}

/** Tells tabs that have just come what all others know. */
function repeatAll() {
  const all = [["session", session.value]];
  all.push(["jobs", jobs.value && { all: true, removed: [], data: jobList.value }]);
  for (const [name, { value }] of topics) {
    const isJob = name.startsWith("job:");
    all.push(isJob ? ["job", value && { id: name.slice(4), from: 0, data: value }] : [name, value]);
  }
  for (const [event, data] of all) if (data) channel.postMessage({ news: { event, data } });
  channel.postMessage({ connection: connection.value });
}

/** Begins the stream again, with the topics that are wanted now. */
export function restart() {
  if (!isLeader) return;
  attempt?.abort();
  attempt = null;
  if (!canLead && document.hidden) return;
  attempt = new AbortController();
  listenOn(attempt.signal);
}

async function listenOn(stop) {
  let wait = FIRST_WAIT;
  while (!stop.aborted) {
    try {
      const names = wanted().map(encodeURIComponent).join(",");
      const response = await send("GET", `/studio/api/live?topics=${names}`, undefined, {
        signal: stop, headers: { Accept: "text/event-stream" },
      });
      tell("live");
      wait = FIRST_WAIT;
      for await (const news of events(response)) {
        if (stop.aborted) return;
        take(news);
        channel?.postMessage({ news });
      }
    } catch (error) {
      if (stop.aborted) return;
      if (error.status === 401) {
        tell("live");
        return; // The page to sign in calls restart().
      }
    }
    tell("lost");
    await new Promise((resolve) => { setTimeout(resolve, wait); });
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }
}

function tell(state) {
  connection.value = state;
  channel?.postMessage({ connection: state });
}

function take({ event, data }) {
  batch(() => {
    if (event === "session") session.value = data;
    else if (event === "jobs") takeJobs(data);
    else if (event === "job") takeMetrics(data);
    else topic(event).value = data;
  });
}

function takeJobs({ data, removed, all }) {
  const found = all ? new Map() : new Map(jobs.value ?? []);
  for (const job of data) found.set(job.id, job);
  for (const id of removed) found.delete(id);
  jobs.value = new Map([...found].sort(([, a], [, b]) => b.created_at - a.created_at));
}

function takeMetrics({ id, from, data }) {
  const known = topic(`job:${id}`);
  known.value = [...(known.value ?? []).slice(0, from), ...data];
}
