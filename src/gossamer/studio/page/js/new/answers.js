// What the server knows of a file, asked again until it is all.

import { get } from "../api.js";
import { useEffect, useSignal } from "../html.js";

const AGAIN_MS = 1000;

/** What a path answers: {answer} or {problem}; null until it has. Long files are told of bit by
 * bit: it is asked again until `isWhole` says that the answer is about all of them. */
export function useAnswer(path, isWhole = (answer) => Boolean(answer)) {
  const found = useSignal(null);
  useEffect(() => {
    const stop = new AbortController();
    found.value = null;
    let timer = null;
    async function ask() {
      try {
        const answer = await get(path, { signal: stop.signal });
        found.value = { answer };
        if (!isWhole(answer)) timer = setTimeout(ask, AGAIN_MS);
      } catch (problem) {
        if (!stop.signal.aborted) found.value = { problem };
      }
    }
    ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [path]);
  return found;
}
