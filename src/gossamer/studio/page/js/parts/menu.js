// What is done now and then, behind one button. The browser closes it by Escape, or a click beside.

import { html, useRef } from "../html.js";

/** So much room a menu needs beneath its button; with less it opens above. */
const ROOM = 250;
const GAP = 4;
let menus = 0;

/** "More", for whoever is called `name`; the children are buttons and links. */
export function Menu({ name, children }) {
  const button = useRef(null);
  const box = useRef(null);
  const id = useRef(null);
  if (!id.current) {
    menus += 1;
    id.current = `menu-${menus}`;
  }

  function place({ newState }) {
    if (newState !== "open") return;
    const { top, bottom, right } = button.current.getBoundingClientRect();
    const { clientWidth: width, clientHeight: height } = document.documentElement;
    const isLow = bottom + ROOM > height && top > ROOM;
    const { style } = box.current;
    // By the document, not by the window: it moves with the page.
    style.right = `${Math.max(GAP, width - right)}px`;
    style.top = `${window.scrollY + (isLow ? top - GAP : bottom + GAP)}px`;
    style.transform = isLow ? "translateY(-100%)" : "";
  }

  return html`<button type="button" class="small" ref=${button} popovertarget=${id.current}
      aria-label=${`More for ${name}`}>More</button>
    <div class="menu" popover="auto" id=${id.current} ref=${box} onbeforetoggle=${place}>
      ${children}</div>`;
}
