// Takes in an adapter from elsewhere: dropped or chosen, named, sent, and served if it fits.

import { sendForm } from "../api.js";
import { html, useRef, useSignal } from "../html.js";
import { restart } from "../live.js";
import { asZip, filesOf } from "./dropped.js";
import { Problem } from "../parts/notes.js";

export function Import() {
  const state = useSignal({}); // {name, file} of what is to be sent, {share} while it is, {done}
  const problem = useSignal(null);
  const isOver = useSignal(false);
  const stop = useRef(null);

  async function take(files) {
    problem.value = null;
    state.value = {};
    try {
      state.value = await asZip(files);
    } catch (error) {
      problem.value = error;
    }
  }

  async function send(event) {
    event.preventDefault();
    const { file } = state.value;
    const name = String(new FormData(event.target).get("name")).trim();
    stop.current = new AbortController();
    problem.value = null;
    state.value = { name, file, share: 0 };
    try {
      const onProgress = (share) => { state.value = { name, file, share }; };
      const options = { onProgress, stop: stop.current.signal };
      const made = await sendForm("/studio/api/imports", { name }, file, options);
      state.value = { done: made };
      restart();
    } catch (error) {
      if (error.name !== "AbortError") problem.value = error;
      state.value = { name, file };
    }
  }

  function drop(event) {
    event.preventDefault();
    isOver.value = false;
    filesOf(event.dataTransfer).then(take, (error) => { problem.value = error; });
  }

  const choose = (event) => {
    const files = [...event.target.files];
    if (files.length) take(files.map((file) => [file.webkitRelativePath || file.name, file]));
    event.target.value = "";
  };
  const over = (is) => (event) => {
    event.preventDefault();
    isOver.value = is;
  };
  return html`<section class="stack tight" aria-label="Import an adapter">
    <div class="drop ${isOver.value ? "over" : ""}" onDragOver=${over(true)}
      onDragLeave=${over(false)} onDrop=${drop}>
      <span>Import: drop the folder of an adapter here, or a zip of it</span>
      <div class="row">
        <label class="choose"><input type="file" class="hidden-text" accept=".zip"
          onChange=${choose} /><span class="button small">Choose a zip</span></label>
        <label class="choose"><input type="file" class="hidden-text" webkitdirectory
          onChange=${choose} /><span class="button small">Choose a folder</span></label>
      </div></div>
    ${state.value.file && html`<form class="row" onSubmit=${send}>
      <label class="row">Name<input name="name" required maxlength="64" autocomplete="off"
        spellcheck="false" value=${state.value.name} /></label>
      ${state.value.share === undefined
        ? html`<button class="primary">Import</button>`
        : html`<span role="status">${state.value.share < 1
            ? `${Math.floor(100 * state.value.share)} % sent` : "The server looks at it…"}</span>
          <button type="button" onClick=${() => stop.current.abort()}>Stop</button>`}
    </form>`}
    <div role="status">${state.value.done && html`<p class="note">“${state.value.done.alias}” is
      served.</p>`}</div>
    <${Problem} error=${problem.value} />
  </section>`;
}
