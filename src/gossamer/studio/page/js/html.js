// The one door to the view library: templates, state and life cycle.

import { Fragment, h, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

/** Tagged template that gives elements: html`<p class="soft">${text}</p>`. Texts stay texts. */
export const html = htm.bind(h);

export { Fragment, render };
export { batch, computed, effect, signal, useComputed, useSignal, useSignalEffect }
  from "../vendor/signals.js";
export { useEffect, useLayoutEffect, useMemo, useRef } from "../vendor/hooks.js";
