// Numbers and times as people read them.

export function count(number) {
  if (number === null || number === undefined) return "–";
  if (number >= 999_500) return `${three(number / 1e6)} M`;
  return Math.round(number).toLocaleString("en");
}

/** @type {[number, string][]} */
const UNITS = [[30, "GiB"], [20, "MiB"], [10, "KiB"]];

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  for (const [power, unit] of UNITS) {
    if (number >= 2 ** power) return `${three(number / 2 ** power)} ${unit}`;
  }
  return `${number} bytes`;
}

/** Three digits that count: 9.31, 93.1, 931. */
function three(number) {
  return number >= 99.95 ? number.toFixed(0) : number >= 9.995 ? number.toFixed(1)
    : number.toFixed(2).replace(/0$/, "").replace(/\.0$/, "");
}

export function loss(number) {
  return Number.isFinite(number) ? number.toFixed(number < 0.1 ? 4 : 3).replace(/0$/, "") : "–";
}

/** How long something is expected to take, if anything is known of it. */
export function expectedTime({ seconds: known, seconds_range: range }) {
  if (Number.isFinite(known)) return seconds(known);
  return range ? `${seconds(range[0])} to ${seconds(range[1])}` : "";
}

export function seconds(number) {
  if (!Number.isFinite(number)) return "–";
  if (number < 1) return `${number.toFixed(2)} s`;
  if (number < 60) return `${number < 10 ? number.toFixed(1) : Math.round(number)} s`;
  const minutes = number / 60;
  if (minutes < 10) return `${trimmed(minutes.toFixed(1))} min`;
  if (minutes < 60) return `${Math.round(minutes)} min`;
  const hours = minutes / 60;
  return hours < 48 ? `${trimmed(hours.toFixed(1))} h` : `${Math.round(hours / 24)} days`;
}

function trimmed(text) {
  return text.replace(/\.0$/, "");
}

/** The time of a Unix time: today's as 10:41, others with the day. */
export function when(unix) {
  if (!unix) return "–";
  const date = new Date(unix * 1000);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

export function ago(unix, now = Date.now() / 1000) {
  if (!unix) return "never";
  const passed = now - unix;
  return passed < 45 ? "just now" : `${seconds(passed)} ago`;
}

/** A count with its word: "1 row", "12 rows". */
export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}
