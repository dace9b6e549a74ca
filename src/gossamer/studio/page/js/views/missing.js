// An address that is no view.

import { html } from "../html.js";
import { href, path } from "../router.js";

export const title = "Not found";

export function View() {
  return html`<div class="view"><h1 tabindex="-1">There is nothing here</h1>
    <p>No view has the address <code>${path.value}</code>. <a href=${href("/")}>All jobs</a></p>
  </div>`;
}
