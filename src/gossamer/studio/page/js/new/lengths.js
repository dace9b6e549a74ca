// Lengths of rows in tokens as bars, and what a longest length would cut off.

const MOST_BINS = 16;
/** A suggested length keeps this share of the rows whole. */
const KEPT = 0.99;
const STEP = 64;

/** {bins, counts}: bars over the logarithm of the lengths; `bins` has the ends of all. */
export function histogram(lengths) {
  const low = Math.max(1, Math.min(...lengths));
  const high = Math.max(low + 1, ...lengths);
  const number = Math.min(MOST_BINS, high - low);
  const ratio = (high / low) ** (1 / number);
  const bins = Array.from({ length: number + 1 }, (_, index) => Math.round(low * ratio ** index));
  const counts = Array(number).fill(0);
  for (const length of lengths) {
    const index = Math.floor(Math.log(length / low) / Math.log(ratio));
    counts[Math.min(number - 1, Math.max(0, index))] += 1;
  }
  return { bins, counts };
}

/** The length that a share of the rows does not exceed. */
export function quantile(lengths, share) {
  const sorted = [...lengths].sort((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
}

/** {rows, tokens, wanted}: what `limit` cuts off, and a limit that cuts next to nothing. */
export function cutBy(lengths, limit) {
  const longer = lengths.filter((length) => length > limit);
  return {
    rows: longer.length,
    tokens: longer.reduce((sum, length) => sum + length - limit, 0),
    wanted: STEP * Math.ceil(quantile(lengths, KEPT) / STEP),
  };
}
