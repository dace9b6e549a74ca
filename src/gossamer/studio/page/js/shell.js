// The frame around every view: where one can go, what runs, and whether the server answers.

import { effect, html, signal, useEffect, useSignal } from "./html.js";
import { connection, jobList, session } from "./live.js";
import { nameOf, share } from "./parts/job_words.js";
import { href, path } from "./router.js";

const ICONS = {
  jobs: "M4 18l5-6 4 3 7-9M4 21h16",
  new: "M12 5v14M5 12h14",
  data: "M5 6c0-3 14-3 14 0v12c0 3-14 3-14 0zM5 6c0 3 14 3 14 0M5 12c0 3 14 3 14 0",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  adapters: "M12 3l9 5-9 5-9-5zM3 12.500l9 5 9-5M3 17l9 5 9-5",
  compare: "M4 20V10M10 20V4M16 20v-7M22 20H2",
  server: "M4 4h16v6H4zM4 14h16v6H4zM8 7h.01M8 17h.01",
  keys: "M14 10a4 4 0 1 0-2.500 3.700L14 16h2v2h2v2h3v-3l-6.500-6.500",
  more: "M5 12h.01M12 12h.01M19 12h.01",
};
const PLACES = [
  ["/", "jobs", "Jobs"], ["/new", "new", "New"], ["/chat", "chat", "Chat"],
  ["/adapters", "adapters", "Adapters"], ["/compare", "compare", "Compare"],
  ["/data", "data", "Data"], ["/server", "server", "Server"], ["/keys", "keys", "Keys"],
];
const MAIN_PLACES = 4;

function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" fill="none" stroke="currentColor"
    stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
    <path d=${ICONS[name]} /></svg>`;
}

export function Shell({ children }) {
  return html`<div class="frame">
    <a class="button skip" href="#content">Skip to content</a>
    <${Rail} />
    <div class="room">
      <${Connection} />
      <main id="content" tabindex="-1">${children}</main>
    </div>
  </div>`;
}

function Rail() {
  const isOpen = useSignal(false);
  const at = path.value;
  useEffect(() => { isOpen.value = false; }, [at]);
  const isHere = (to) => (to === "/" ? at === "/" || at.startsWith("/jobs") : at.startsWith(to));
  return html`<header class="rail ${isOpen.value ? "open" : ""}">
    <a class="brand" href=${href("/")}><${Logo} />Tune Studio</a>
    <nav aria-label="Views">
      ${PLACES.map(([to, icon, name], index) => html`<a key=${to} href=${href(to)}
        class=${index < MAIN_PLACES ? "" : "minor"} aria-current=${isHere(to) ? "page" : undefined}>
        <${Icon} name=${icon} />${name}</a>`)}
    </nav>
    <button class="quiet more" aria-expanded=${isOpen.value}
      onClick=${() => { isOpen.value = !isOpen.value; }}><${Icon} name="more" />More</button>
    <${Running} />
    <div class="foot">
      <${ThemeSwitch} name="theme" />
      <p class="model">${session.value?.model ?? "–"}</p>
    </div>
  </header>`;
}

function Logo() {
  return html`<svg viewBox="0 0 32 32" fill="none" stroke-linecap="round" aria-hidden="true">
    <rect width="32" height="32" rx="8" fill="#0f6b6b" />
    <g stroke="#fff">
      <path stroke-width="1.8" d="M16 5v22M6.500 10.500l19 11M25.500 10.500l-19 11" />
    <path stroke-width="1.5" d="M16 10.500l-4.800 2.800v5.400l4.800 2.800 4.800-2.800v-5.400z" />
      </g>
  </svg>`;
}

function Running() {
  const running = jobList.value.filter((job) => job.status === "running").slice(0, 4);
  if (!running.length) return null;
  return html`<div class="running" role="group" aria-label="Running jobs">
    ${running.map((job) => html`<a key=${job.id} href=${href(`/jobs/${job.id}`)}>
      <span class="row"><span class="cut">${nameOf(job)}</span>
        <span class="soft">${share(job) === null ? "starts" : `${share(job)} %`}</span></span>
      <progress max="100" value=${share(job) ?? 0} aria-label=${`Progress of ${nameOf(job)}`} />
    </a>`)}
  </div>`;
}

const THEME_KEY = "gossamer-theme";

/** "light", "dark" or "system"; remembered in this browser. */
export const theme = signal(rememberedTheme());

function rememberedTheme() {
  try {
    return localStorage.getItem(THEME_KEY) ?? "system";
  } catch {
    return "system"; // Storage is switched off.
  }
}

effect(() => {
  const chosen = theme.value;
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem(THEME_KEY, chosen);
  } catch {
    // Then it lasts as long as the page does.
  }
});

export function ThemeSwitch({ name }) {
  return html`<fieldset class="switch"><legend class="hidden-text">Colours</legend>
    ${["system", "light", "dark"].map((each) => html`<label key=${each}>
      <input type="radio" name=${name} checked=${theme.value === each}
        onChange=${() => { theme.value = each; }} />
      ${{ system: "Auto", light: "Light", dark: "Dark" }[each]}</label>`)}
  </fieldset>`;
}

/** Whether the server is gone for longer than a blink; short breaks mend themselves unseen. */
const isGone = signal(false);
let timer = null;

function Connection() {
  const state = connection.value;
  useEffect(() => {
    clearTimeout(timer);
    if (state === "lost") timer = setTimeout(() => { isGone.value = true; }, 1200);
    else isGone.value = false;
  }, [state]);
  return html`<div role="status">${isGone.value && html`<p class="connection">The server does not
    answer. Trying again… Training goes on by itself.</p>`}</div>`;
}
