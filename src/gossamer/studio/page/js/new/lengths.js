// Lengths of rows in tokens as bars, and what a longest length would cut off.
//
// Lengths are [length, rows] in rising order, so that those of a million rows are a short list.

const MOST_BINS = 20;
/** A suggested length keeps this share of the rows whole. */
const KEPT = 0.99;
const STEP = 64;

/** {bins, counts}: bars over the logarithm of the lengths; `bins` has the ends of all. */
export function histogram(lengths) {
  const low = Math.max(1, lengths[0][0]);
  const high = Math.max(low + 1, lengths.at(-1)[0]);
  const number = Math.min(MOST_BINS, high - low);
  const ratio = (high / low) ** (1 / number);
  const bins = Array.from({ length: number + 1 }, (_, index) => Math.round(low * ratio ** index));
  const counts = Array(number).fill(0);
  for (const [length, rows] of lengths) {
    const index = Math.floor(Math.log(length / low) / Math.log(ratio));
    counts[Math.min(number - 1, Math.max(0, index))] += rows;
  }
  return { bins, counts };
}

/** The length that a share of the rows does not exceed. */
export function quantile(lengths, share) {
  const wanted = Math.ceil(share * lengths.reduce((sum, [, rows]) => sum + rows, 0));
  let seen = 0;
  for (const [length, rows] of lengths) {
    seen += rows;
    if (seen >= wanted) return length;
  }
  return lengths.at(-1)?.[0] ?? 0;
}

/** {rows, tokens, wanted}: what `limit` cuts off, and a limit that cuts next to nothing. */
export function cutBy(lengths, limit) {
  const longer = lengths.filter(([length]) => length > limit);
  return {
    rows: longer.reduce((sum, [, rows]) => sum + rows, 0),
    tokens: longer.reduce((sum, [length, rows]) => sum + rows * (length - limit), 0),
    wanted: STEP * Math.ceil(quantile(lengths, KEPT) / STEP),
  };
}
