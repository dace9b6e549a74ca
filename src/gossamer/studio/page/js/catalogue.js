// The methods and settings that there are, with their bounds, sentences and measured costs.

import { get } from "./api.js";
import { signal } from "./html.js";

/** {methods, training}; null until `loadCatalogue` has been called and has answered. */
export const catalogue = signal(null);

let loading = null;

export function loadCatalogue() {
  // It lies beside this file, under the same version.
  loading ??= get(new URL("../catalogue.json", import.meta.url)).then((found) => {
    catalogue.value = found;
  });
  return loading;
}

export function methodNamed(name) {
  return catalogue.value?.methods.find((method) => method.name === name) ?? null;
}

/** The setting that makes a method larger or smaller: its rank, width or number of tokens. */
export function sizeSetting(method) {
  const names = ["rank", "width", "tokens"];
  return method.settings.find((each) => names.includes(each.name) && each.type === "integer");
}

const FACTORS = { small: 1 / 4, medium: 1, large: 4 };

/** The value of that setting in a size; null where a method knows no sizes. */
export function sizeOf(method, size) {
  const setting = sizeSetting(method);
  return setting ? Math.max(1, Math.round(setting.default * FACTORS[size])) : null;
}
