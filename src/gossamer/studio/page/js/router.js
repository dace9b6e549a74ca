// Addresses: every view is one, and whatever a view remembers stands in its query.

import { computed, signal } from "./html.js";

const ROOT = "/studio";

/** The address as the browser shows it, without the root: "/jobs/ftjob-1?x=tokens". */
export const address = signal(current());
export const path = computed(() => address.value.split("?")[0]);
export const query = computed(() => new URLSearchParams(address.value.split("?")[1] ?? ""));

function current() {
  const { pathname, search } = window.location;
  const inside = pathname.startsWith(ROOT) ? pathname.slice(ROOT.length) : pathname;
  return (inside || "/") + search;
}

/** The full address of a view, for links. */
export function href(to) {
  return ROOT + to;
}

/** Opens a view; `replace` leaves no step back in the history. */
export function go(to, { replace = false } = {}) {
  if (replace) window.history.replaceState(null, "", href(to));
  else window.history.pushState(null, "", href(to));
  address.value = current();
  if (!replace) window.scrollTo(0, 0);
}

/** Changes some values of the query where one is; empty ones are taken out. */
export function setQuery(changes) {
  const next = new URLSearchParams(query.peek());
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") next.delete(name);
    else next.set(name, value);
  }
  const text = next.toString();
  go(path.peek() + (text ? `?${text}` : ""), { replace: true });
}

/** Finds the values of a pattern such as "/jobs/:id" in a path; null if it does not fit. */
export function match(pattern, at) {
  const wanted = pattern.split("/");
  const given = at.replace(/\/$/, "").split("/");
  if (at === "/" ? pattern !== "/" : wanted.length !== given.length) return null;
  /** @type {Record<string, string>} */
  const values = {};
  for (const [index, part] of wanted.entries()) {
    if (part.startsWith(":")) values[part.slice(1)] = decodeURIComponent(given[index]);
    else if (at !== "/" && part !== given[index]) return null;
  }
  return values;
}

/** Follows links inside the page without loading it again, and the browser's back and forth. */
export function listen() {
  window.addEventListener("popstate", () => { address.value = current(); });
  document.addEventListener("click", (event) => {
    const near = event.target instanceof Element ? event.target.closest("a[href]") : null;
    const link = near instanceof HTMLAnchorElement ? near : null;
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
    if (!link || !isPlain || link.target || link.hasAttribute("download")) return;
    const url = new URL(link.href);
    const isInside = url.pathname === ROOT || url.pathname.startsWith(`${ROOT}/`);
    if (url.origin !== window.location.origin || !isInside) return;
    if (url.hash && url.pathname === window.location.pathname) return;
    event.preventDefault();
    go(url.pathname.slice(ROOT.length) + url.search);
  });
}
