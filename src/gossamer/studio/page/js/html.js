// The one door to the view library: templates, state and life cycle.

import { Fragment, h, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";
import * as signals from "../vendor/signals.js";

/** Tagged template that gives elements: html`<p class="soft">${text}</p>`. Texts stay texts.
 * @type {(texts: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(h);

export { Fragment, render };

/** A value that views follow; `peek` looks at it without following.
 * @typedef {{value: any, peek: () => any}} Signal */

/** @type {(initial: any) => Signal} */
export const signal = signals.signal;
/** @type {(initial: any) => Signal} */
export const useSignal = signals.useSignal;
/** @type {(work: () => any, options?: any) => any} */
export const computed = signals.computed;
/** @type {(work: () => any) => Signal} */
export const useComputed = signals.useComputed;
export const { effect } = signals;
export const { batch, useSignalEffect } = signals;
export { useEffect, useLayoutEffect, useMemo, useRef } from "../vendor/hooks.js";
