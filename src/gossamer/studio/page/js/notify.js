// Tells a person who looks elsewhere that a job has ended; only if that was asked for.

import { effect, signal } from "./html.js";
import { jobs } from "./live.js";
import { nameOf } from "./parts/job_words.js";
import { go } from "./router.js";

const KEY = "gossamer-notify";
const ENDS = { succeeded: "is done", failed: "has failed" };

/** Whether this browser can tell and may. */
export const isOn = signal(localStorage.getItem(KEY) === "yes" && mayTell());

function mayTell() {
  return "Notification" in window && Notification.permission === "granted";
}

/** Switches it; asks the browser for its permission first. */
export async function switchTo(wanted) {
  if (wanted && !mayTell()) await Notification.requestPermission();
  isOn.value = wanted && mayTell();
  localStorage.setItem(KEY, isOn.value ? "yes" : "no");
}

let before = new Map();

effect(() => {
  const now = new Map([...(jobs.value ?? [])].map(([id, { status }]) => [id, status]));
  for (const [id, status] of now) {
    const word = ENDS[status];
    if (isOn.value && word && before.get(id) === "running" && document.hidden) {
      const told = new Notification(`${nameOf(jobs.value.get(id))} ${word}`, { tag: id });
      told.onclick = () => {
        window.focus();
        go(`/jobs/${id}`);
      };
    }
  }
  before = now;
});
